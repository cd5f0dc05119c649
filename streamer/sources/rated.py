"""A live stream held to a frame rate of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

from streamer.clock import ticks
from streamer.frame import Frame, VideoFormat
from streamer.stage import Media, Queueing, Sounding, Source
from streamer.stats import AvSync

LEFT_OUT = "frames left out for --fps"
_EARLY_SLOTS = Fraction(1, 4)


class RatedSource:
    """Gives at most one frame of another source in every slot of a grid of `rate` frames per second.

    The grid is absolute: slot n begins a quarter of a slot before n/rate seconds after the first frame, so that neither
    the same rate nor a multiple of it lies at a border. A slot's first frame is given, with its own time, and a second
    one if the slot before was empty; the others are left out and counted; their sound, and the news of a discontinuity,
    go with the next one. A source that is slower than `rate` keeps its frames as they are: nothing is made up.
    """

    def __init__(self, source: Source, rate: Fraction) -> None:
        self.live = source.live
        self._source, self._rate = source, rate
        self._left_out = 0
        self._first_s: Fraction | None = None
        self._slot = -1

    @property
    def format(self) -> VideoFormat:
        format = self._source.format
        return replace(format, rate=min(self._rate, format.rate) if format.rate else self._rate)

    @property
    def media(self) -> Media:
        return self._source.media

    @property
    def frames_total(self) -> int | None:
        total = self._source.frames_total
        if total is None or not self._source.format.rate:
            return None
        return round(total * min(Fraction(1), self._rate / self._source.format.rate))

    @property
    def counts(self) -> Mapping[str, int]:
        left_out = {LEFT_OUT: self._left_out} if self._left_out else {}
        return {**self._source.counts, **left_out}

    @property
    def av_sync(self) -> AvSync | None:
        return self._source.av_sync if isinstance(self._source, Sounding) else None

    @property
    def depth(self) -> int | None:
        return self._source.depth if isinstance(self._source, Queueing) else None

    @property
    def notes(self) -> Sequence[str]:
        return self._source.notes

    def open(self) -> None:
        self._source.open()

    def read(self) -> Frame | None:
        packets: tuple[Any, ...] = ()
        discontinuity = False
        while (frame := self._source.read()) is not None:
            packets += frame.packets
            discontinuity = discontinuity or frame.discontinuity
            if self._first_s is None:
                self._first_s = frame.time
            slot = floor((frame.time - self._first_s) * self._rate + _EARLY_SLOTS)
            if slot > self._slot:
                self._slot = max(self._slot + 1, slot - 1)
                return self._given(replace(frame, packets=packets, discontinuity=discontinuity))
            self._left_out += 1
        return None

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()

    def _given(self, frame: Frame) -> Frame:
        """With an index that jumps only where frames were lost."""
        format = self.format
        duration = max(frame.duration, ticks(1 / format.rate, frame.time_base)) if format.rate else frame.duration
        return replace(frame, format=format, duration=duration, index=frame.index - self._left_out)
