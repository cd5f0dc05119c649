"""What can go wrong in a measurement."""


class BenchmarkError(RuntimeError):
    """Something cannot be measured; the message says what, why and what to do."""
