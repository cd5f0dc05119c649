"""What streamer-enhancer costs on this machine: `python -m benchmarks speed | memory | startup`, from a checkout.

Every figure comes with the machine, the versions and the command that made it.
"""
