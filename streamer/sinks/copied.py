"""A stream of sound that an output takes as it is."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av.error

from streamer.clock import fraction, ticks
from streamer.notes import Notes
from streamer.sinks.silence import LATE, Continuity, SilentAac
from streamer.sync import SyncMeter


class CopiedSound:
    """Copies the packets of one stream, all moved in time by `shift_s` seconds.

    Holes in a `live` stream of AAC-LC are filled with packets of silence, see `Continuity` and `SilentAac`; what sound
    comes later than that is left out. All other holes stay. `refused` counts packets that the muxer didn't take.
    PyAV's other errors and ValueError pass through. For one thread.
    """

    def __init__(
        self, container: Any, stream: Any, shift_s: Fraction, notes: Notes, sync: SyncMeter, *, live: bool
    ) -> None:
        self.refused = 0
        self._container, self._index, self._shift_s = container, stream.index, shift_s
        self._notes, self._sync = notes, sync
        self._copy = container.add_stream_from_template(stream)
        self._silent = SilentAac.like(stream) if live else None
        self._line = Continuity(Fraction(0), live=live)

    def mux(self, packets: Iterable[Any], picture_s: Fraction) -> None:
        """Takes packets, which are used up by it, that came with, or before, the picture of this time."""
        self._line.follow(picture_s + self._shift_s)
        for packet in packets:
            begin_s = packet.pts * fraction(packet.time_base) + self._shift_s
            if not self._line.takes(begin_s):
                self._notes.say(LATE)
                continue
            if self._silent is not None:
                self._silent.learn(packet)
            self._fill(begin_s)
            self._line.sound(begin_s, self._duration_s(packet))
            shift = ticks(self._shift_s, fraction(packet.time_base))
            packet.pts += shift
            packet.dts = packet.pts if packet.dts is None else packet.dts + shift
            self._mux(packet, begin_s)
        self._fill(self._line.overdue_s())

    def finish(self) -> None:
        self._fill(self._line.overdue_s(ends=True))

    def _duration_s(self, packet: Any) -> Fraction:
        stated_s = (packet.duration or 0) * fraction(packet.time_base)
        return stated_s or (self._silent.duration_s if self._silent is not None else Fraction(0))

    def _fill(self, until_s: Fraction) -> None:
        silent, line = self._silent, self._line
        if silent is None or not silent.is_ready:
            return
        for _ in range(int(line.hole(until_s) / silent.duration_s)):
            begin_s = line.end_s
            line.silence(silent.duration_s)
            self._mux(silent.packet(begin_s), begin_s)

    def _mux(self, packet: Any, begin_s: Fraction) -> None:
        packet.stream = self._copy
        try:
            self._container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError):
            self.refused += 1
        else:
            self._sync.sound(self._index, begin_s - self._shift_s, packet.pts * fraction(packet.time_base))
