"""How far sound and pictures are apart: measured on every packet, where it gets another time."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from statistics import median

from streamer.stats import AvSync

WINDOW = 32
"""Packets of one stream of sound whose median is taken: 0.7 s of AAC at 48 kHz."""
_ENOUGH = 8
"""Packets before which nothing is said of a stream."""


class SyncMeter:
    """Compares the times that pictures and sound have with those that they had; see `streamer.stats.AvSync`.

    Live sources report the stream's own time of every packet, and the one on their timeline; sinks that, and the one
    that was muxed; all in seconds. Connections that follow one another may share a meter. One thread reports, any
    thread reads.
    """

    def __init__(self) -> None:
        self._picture_s: Fraction | None = None
        self._picture_shift_s = Fraction(0)
        self._offsets_s: dict[int, deque[float]] = {}
        self._sounds_s: dict[int, Fraction] = {}
        self._offset_s = self._worst_s = 0.0
        self._has_offset = False

    @property
    def av_sync(self) -> AvSync | None:
        """How it stands now; None before there is enough sound."""
        sounds, picture_s = list(self._sounds_s.values()), self._picture_s
        if not self._has_offset or picture_s is None:
            return None
        skew_s = min(sounds) - picture_s
        return AvSync(_ms(self._offset_s), _ms(float(skew_s)), _ms(self._worst_s))

    def picture(self, before_s: Fraction, after_s: Fraction) -> None:
        self._picture_s, self._picture_shift_s = before_s, after_s - before_s

    def sound(self, stream: int, before_s: Fraction, after_s: Fraction) -> None:
        """A packet of the stream of this index; says something only after a first picture."""
        if self._picture_s is None:
            return
        self._sounds_s[stream] = before_s
        offsets = self._offsets_s.setdefault(stream, deque(maxlen=WINDOW))
        offsets.append(float(self._picture_shift_s - (after_s - before_s)))
        if len(offsets) < _ENOUGH:
            return
        found = [median(each) for each in self._offsets_s.values() if len(each) >= _ENOUGH]
        self._offset_s = max(found, key=abs)
        self._worst_s = max(self._worst_s, self._offset_s, key=abs)
        self._has_offset = True


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1) + 0.0  # no -0.0
