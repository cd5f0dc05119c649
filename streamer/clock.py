"""Time of pictures and packets: exact rationals from whatever a stream carries."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def fraction(rational: Any) -> Fraction:
    """A rational of PyAV's (of whatever class; its version decides) as a Fraction."""
    return Fraction(rational.numerator, rational.denominator)


def ticks(seconds: Fraction, time_base: Fraction) -> int:
    """`seconds` in whole units of `time_base`, to the nearest."""
    return round(seconds / time_base)


class Timeline:
    """Gives each decoded picture of one stream its presentation time, in order, in units of `time_base` seconds.

    Good timestamps pass unchanged. Where presentation times are out of order more often than decoding times (AVI with
    B-frames has only the latter), decoding times are used, as FFmpeg's best-effort timestamps do. A missing time
    continues at the nominal interval; one that doesn't increase is moved to one tick after its predecessor, so that
    every picture stays and none is shown before the one before it. `repaired` counts the last two.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self.time_base = time_base
        self.interval = max(1, ticks(1 / (rate or Fraction(25)), time_base))
        self.repaired = 0
        self._last: int | None = None
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = 0
        self._faulty_dts = 0

    def place(self, pts: int | None, dts: int | None = None) -> int:
        """The presentation time of the next picture, whose stream says `pts` and whose packet said `dts`."""
        time = self._best(pts, dts)
        if time is None:
            time = 0 if self._last is None else self._last + self.interval
            self.repaired += 1
        elif self._last is not None and time <= self._last:
            time = self._last + 1
            self.repaired += 1
        self._last = time
        return time

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        return pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts


class Splice:
    """Closes jumps of a clock that all streams of a transport stream share.

    Recordings that were joined, and encoders that restarted, make the time jump. A jump backwards by more than a tenth
    of a second or forwards by more than ten (FFmpeg's thresholds) is taken out of all streams alike, so that sound and
    picture stay together. `jumps` counts.
    """

    _BACK_S, _FORTH_S = Fraction(1, 10), Fraction(10)

    def __init__(self) -> None:
        self.jumps = 0
        self._offset_s = Fraction(0)
        self._expected_s: dict[int, Fraction] = {}

    def join(self, packet: Any) -> None:
        """Moves the packet's times in place."""
        if packet.dts is None:
            return
        unit = fraction(packet.time_base)
        expected_s = self._expected_s.get(packet.stream.index)
        time_s = packet.dts * unit + self._offset_s
        if expected_s is not None and not -self._BACK_S <= time_s - expected_s <= self._FORTH_S:
            self.jumps += 1
            self._offset_s += expected_s - time_s
            time_s = expected_s
        self._expected_s[packet.stream.index] = time_s + (packet.duration or 0) * unit
        shift = ticks(self._offset_s, unit)
        packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift
