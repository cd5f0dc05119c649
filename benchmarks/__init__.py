"""What streamer-enhancer costs on this machine: `python -m benchmarks speed | memory | startup | networks`,
from a checkout; and `level`: how well it sees how degraded pictures are.

Every figure comes with the machine, the versions and the command that made it.
"""
