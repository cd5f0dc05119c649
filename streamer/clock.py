"""Time of pictures and packets: exact rationals from whatever a stream carries."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from streamer.frame import DEFAULT_RATE


def fraction(rational: Any) -> Fraction:
    """A rational of PyAV's (of whatever class; its version decides) as a Fraction."""
    return Fraction(rational.numerator, rational.denominator)


def ticks(seconds: Fraction, time_base: Fraction) -> int:
    """`seconds` in whole units of `time_base`, to the nearest."""
    return round(seconds / time_base)


def time_of(packet: Any) -> Fraction | None:
    """When a PyAV packet is presented, else decoded, in seconds; None if it doesn't say."""
    when = packet.pts if packet.pts is not None else packet.dts
    return None if when is None else when * fraction(packet.time_base)


class Timeline:
    """Gives each decoded picture of one stream its presentation time, in order, in units of `time_base` seconds.

    Good timestamps pass unchanged. Where presentation times are out of order more often than decoding times (AVI with
    B-frames has only the latter), decoding times are used, as FFmpeg's best-effort timestamps do. A missing time
    continues at the nominal interval; one that doesn't increase is moved to one tick after its predecessor, so that
    every picture stays and none is shown before the one before it. `repaired` counts the last two.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self.time_base = time_base
        self.interval = max(1, ticks(1 / (rate or DEFAULT_RATE), time_base))
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


@dataclass(slots=True, eq=False)
class _Clock:
    """A stretch of a program's time: by how much it is moved, and where the furthest of its streams is (as moved)."""

    offset_s: Fraction = Fraction(0)
    reached_s: Fraction | None = None


class Splice:
    """Closes jumps of a clock that all streams of a transport stream share.

    Recordings that were joined, and encoders that restarted, make the time jump. A jump backwards by more than a tenth
    of a second or forwards by more than ten (FFmpeg's thresholds) is taken out of all streams alike, so that sound and
    picture stay together. `jumps` counts.

    Only sound and picture show a jump: between subtitles, or marks in a data stream, any time may pass. So it may
    between pieces of sound while pictures go on. Each stream changes to the new clock by itself, because packets of
    the old one may still come when another stream has changed.
    """

    _BACK_S, _FORTH_S = Fraction(1, 10), Fraction(10)

    def __init__(self) -> None:
        self.jumps = 0
        self._newest = _Clock()
        self._clocks: dict[int, _Clock] = {}
        self._expected_s: dict[int, Fraction] = {}

    def join(self, packet: Any) -> bool:
        """Moves the packet's times in place; whether it is the first of its stream behind a jump."""
        if packet.dts is None:
            return False
        unit, index = fraction(packet.time_base), packet.stream.index
        clock, changed = self._newest, False
        if packet.stream.type in ("audio", "video"):
            before = self._clocks.get(index)
            clock = self._clock_at(packet.dts * unit, index)
            changed = before not in (None, clock)
            end_s = (packet.dts + (packet.duration or 0)) * unit + clock.offset_s
            clock.reached_s = end_s if clock.reached_s is None else max(clock.reached_s, end_s)
            self._clocks[index], self._expected_s[index] = clock, end_s
        shift = ticks(clock.offset_s, unit)
        packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift
        return changed

    def _clock_at(self, time_s: Fraction, index: int) -> _Clock:
        """The clock to which the next packet of a stream belongs, whose decoding time is `time_s` as stated."""
        clock, newest = self._clocks.get(index, self._newest), self._newest
        expected_s = self._expected_s.get(index)
        if expected_s is None:
            return newest
        gap_s = time_s + clock.offset_s - expected_s
        entering_s = time_s + newest.offset_s - expected_s
        if clock is not newest and abs(entering_s) < abs(gap_s) and -self._FORTH_S <= entering_s <= self._FORTH_S:
            if entering_s < -self._BACK_S:
                newest.offset_s -= entering_s  # this stream was longer than the one that jumped first
            return newest
        assert clock.reached_s is not None
        if gap_s >= -self._BACK_S and time_s + clock.offset_s - clock.reached_s <= self._FORTH_S:
            return clock
        self.jumps += 1
        self._newest = _Clock(clock.offset_s - gap_s)
        return self._newest
