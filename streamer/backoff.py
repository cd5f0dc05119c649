"""How long to wait before the next try: longer each time, and never in step with others."""

from __future__ import annotations

import random

FIRST_S, LONGEST_S = 0.5, 10.0


class Backoff:
    """Exponential back-off with jitter: each wait is drawn from the upper half of a doubling bound.

    The jitter keeps many streams that lost one server from coming back in the same instant (AWS Architecture Blog,
    "Exponential Backoff And Jitter", 2015). `tries` counts waits since the last `succeeded`.
    """

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self.tries = 0
        self._first_s, self._longest_s = first_s, longest_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        bound = min(self._first_s * 2 ** min(self.tries, 30), self._longest_s)
        self.tries += 1
        return random.uniform(bound / 2, bound)

    def succeeded(self) -> None:
        self.tries = 0
