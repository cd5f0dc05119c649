"""What can go wrong outside the code: data, configurations, checkpoints."""


class TrainingError(RuntimeError):
    """Training, export or evaluation cannot go on; the message says what, why and what to do."""
