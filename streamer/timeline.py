"""One timeline for a live stream that comes in pieces: reconnects, stalls, jumping and absurd clocks."""

from __future__ import annotations

from fractions import Fraction

from streamer.clock import ticks

TIME_BASE = Fraction(1, 90000)
"""The unit of every live source's times, in seconds: that of RTP and MPEG transport streams."""

_AHEAD_S = Fraction(1, 2)
_SETTLING_S, _SETTLING_AHEAD_S = Fraction(1), Fraction(1, 50)
_BEHIND_S = Fraction(3, 10)
_WATCHED_S, _DRIFT_S = Fraction(10), Fraction(1, 200)
"""How long arrivals are watched, and by how much the clock is then corrected at most: 500 parts in a million, when
crystals are wrong by up to 100. The least delay counts, because networks only delay."""


class LiveTimeline:
    """Gives every picture of a live source its time, in TIME_BASE units since the first picture's arrival.

    The spacing is the stream's; the position is the arrival's. A connection is anchored where its first picture
    arrives; what a server or FFmpeg had kept back comes in a burst then, so that for a second the anchor moves to
    whatever comes earlier, and the rest of the burst is refused. When the stream's clock later leads the arrival by
    more than half a second, the arrival is the picture's time; if the next one leads as well (the clock jumped
    forwards), the stream is anchored anew. A picture whose time has passed already, because
    frames were filled in while it was late, is refused; if pictures stay late for 0.3 s (the clock jumped backwards, or
    the path grew longer), the stream is anchored anew as well. Times strictly increase. For one thread.

    Clocks drift: a camera's hour is some milliseconds longer or shorter than this machine's. Its pictures keep its
    spacing, and `lag_s` says by how much this timeline is behind the monotonic clock (ahead: negative).

    `repaired` counts missing and absurd times, `jumps` anchors lost in the middle of a connection, `late` refused
    pictures.
    """

    def __init__(self) -> None:
        self.repaired = self.jumps = self.late = 0
        self.last: int | None = None
        self._offset_s: Fraction | None = None
        self._settled_s = Fraction(0)
        self._late_since_s: Fraction | None = None
        self._leads = False
        self.lag_s = Fraction(0)
        self._least_s: Fraction | None = None
        self._watched_until_s = _WATCHED_S

    def reconnected(self) -> None:
        """The next picture is the first of another connection, whose clock has nothing to do with the last one's."""
        self._offset_s = self._late_since_s = self._least_s = None
        self._leads = False

    def place(self, stream_s: Fraction | None, arrival_s: Fraction) -> int | None:
        """The time of the next picture, whose stream says `stream_s`; None if it comes too late.

        `arrival_s` counts from the source's first picture, on the monotonic clock.
        """
        arrival_s -= self.lag_s
        if stream_s is None:
            self.repaired += 1
            return self._accept(ticks(arrival_s, TIME_BASE))
        if self._offset_s is None:
            self._offset_s = arrival_s - stream_s
            self._settled_s = arrival_s + _SETTLING_S
        ahead_s = stream_s + self._offset_s - arrival_s
        led, self._leads = self._leads, ahead_s > _AHEAD_S
        if self._leads and not led:
            self.repaired += 1
            return self._accept(ticks(arrival_s, TIME_BASE))
        if self._leads:
            self._leads = False
            self._anchor_anew(stream_s, arrival_s)
        elif ahead_s > _SETTLING_AHEAD_S and arrival_s < self._settled_s:
            self._offset_s = arrival_s - stream_s
            if self.last is not None and arrival_s < self.last * TIME_BASE + _SETTLING_AHEAD_S:
                self.late += 1
                return None
        when = ticks(stream_s + self._offset_s, TIME_BASE)
        if self.last is None or when > self.last:
            self._watch(-ahead_s, arrival_s)
            return self._accept(when)
        if self._late_since_s is None:
            self._late_since_s = arrival_s
        if arrival_s - self._late_since_s < _BEHIND_S:
            self.late += 1
            return None
        self._anchor_anew(stream_s, arrival_s)
        return self._accept(ticks(arrival_s, TIME_BASE))

    def fill(self, interval: int) -> int:
        """The time of a frame that stands in for a missing one: `interval` units after the last."""
        self.last = (0 if self.last is None else self.last) + interval
        return self.last

    def shifted(self, stream_s: Fraction) -> Fraction:
        """A time of another stream of this connection (sound) on this timeline, in seconds."""
        return stream_s + (self._offset_s or 0)

    def _watch(self, late_s: Fraction, arrival_s: Fraction) -> None:
        """Follows the drift of the stream's clock against this one's."""
        self._least_s = late_s if self._least_s is None else min(self._least_s, late_s)
        if arrival_s >= self._watched_until_s:
            self.lag_s += max(-_DRIFT_S, min(_DRIFT_S, self._least_s))
            self._least_s, self._watched_until_s = None, arrival_s + _WATCHED_S

    def _anchor_anew(self, stream_s: Fraction, arrival_s: Fraction) -> None:
        self.jumps += 1
        self._least_s = None
        self._offset_s = arrival_s - stream_s

    def _accept(self, when: int) -> int:
        self._late_since_s = None
        self.last = when if self.last is None else max(when, self.last + 1)
        return self.last
