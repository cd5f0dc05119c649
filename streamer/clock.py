"""Time of frames: strictly increasing presentation times from whatever a stream carries."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


class Timeline:
    """Gives each picture of one stream its presentation time, in order, in units of `time_base` seconds.

    Good timestamps pass unchanged. A missing one continues at the nominal interval; one that doesn't increase is moved
    to one tick after its predecessor, so that every picture stays and none is shown before the one before it.
    `repaired` counts both.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self.time_base = time_base
        self.interval = max(1, round(1 / (rate * time_base))) if rate else max(1, round(Fraction(1, 25) / time_base))
        self.repaired = 0
        self._last: int | None = None

    def place(self, pts: int | None) -> int:
        """The presentation time of the next picture, whose stream says `pts`."""
        if pts is None:
            pts = 0 if self._last is None else self._last + self.interval
            self.repaired += 1
        elif self._last is not None and pts <= self._last:
            pts = self._last + 1
            self.repaired += 1
        self._last = pts
        return pts


def fraction(rational: Any) -> Fraction:
    """A rational of PyAV's (of whatever class; its version decides) as a Fraction."""
    return Fraction(rational.numerator, rational.denominator)


def ticks(seconds: Fraction, time_base: Fraction) -> int:
    """`seconds` in whole units of `time_base`, to the nearest."""
    return round(seconds / time_base)
