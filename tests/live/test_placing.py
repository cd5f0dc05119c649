"""What a live source makes of what arrives: where sound goes, and how far that takes it from its picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from streamer.frame import Frame
from streamer.sources.live import LiveSource
from streamer.sources.receiver import Arrival
from streamer.timeline import LiveTimeline
from tests.clips import make_frame
from tests.live.clapper import INTERVAL_S, begin_of, claps

PACKET_S = Fraction(4608, 48000)
FIRST_S = Fraction(1000)
"""What the stream's clock says of its first picture."""


class Arrivals:
    """Puts pictures and their sound into a live source, as its receiver does, at times of the test's."""

    def __init__(self, lead_s: Fraction = Fraction(0)) -> None:
        """`lead_s` is how far ahead of its picture sound comes."""
        self._lead_s = lead_s
        self.source = LiveSource("udp://127.0.0.1:9")
        self.source._receiver.format = make_frame().format
        self.source._interval, self.source._origin_ns, self.source._number = 3600, 0, -1
        _, _, self._packets = claps(100, Fraction(2))
        self._count = 0
        for packet in self._packets:
            packet.pts += int(FIRST_S / packet.time_base)
            packet.dts = packet.pts

    def next(self, late_s: Fraction = Fraction(0)) -> Frame | None:
        """The next picture of a stream of 25 frames/s, so long after its time, with the sound before it."""
        time_s, number = self._count * INTERVAL_S, self._count
        self._count += 1
        packets = [packet for packet in self._packets if begin_of(packet) <= FIRST_S + time_s + self._lead_s]
        self._packets = self._packets[len(packets) :]
        arrived_ns = int((time_s + late_s) * 10**9)
        arrival = Arrival(make_frame().planes, FIRST_S + time_s, arrived_ns, number, 0, tuple(packets), None)
        frame = self.source._placed(arrival)
        if frame is not None:
            self.source._last = frame
        return frame


def sound_of(frames: Sequence[Frame | None]) -> list[Any]:
    return [packet for frame in frames if frame is not None for packet in frame.packets]


def test_the_sound_of_pictures_that_come_too_late_is_kept() -> None:
    """The pictures' time was filled with others, but their sound is still missing."""
    arrivals = Arrivals()
    frames = [arrivals.next() for _ in range(50)]
    for _ in range(6):
        arrivals.source._timeline.fill(3600)
    late = [arrivals.next(late_s=Fraction(6 - number, 25)) for number in range(6)]
    assert late == [None] * 6
    frames += [arrivals.next() for _ in range(20)]
    times = [begin_of(packet) for packet in sound_of(frames)]
    assert len(times) >= 28
    assert all(abs(begin - number * PACKET_S) < Fraction(1, 1000) for number, begin in enumerate(times))


def test_what_a_burst_at_the_beginning_brings_is_left_out() -> None:
    """Its pictures are refused, and where they were was only a guess."""
    arrivals = Arrivals(lead_s=Fraction(7, 100))
    first = arrivals.next()
    assert first is not None
    burst = [arrivals.next(late_s=-number * INTERVAL_S) for number in range(1, 12)]
    assert burst == [None] * 11
    frames = [first, *(arrivals.next(late_s=-11 * INTERVAL_S) for _ in range(20))]
    times = [begin_of(packet) for packet in sound_of(frames)]
    assert len(times) >= 8
    assert all(after - before >= PACKET_S - Fraction(1, 1000) for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("shift_s", [Fraction(0), Fraction(7, 100), Fraction(-1, 4)])
def test_a_timeline_that_parts_sound_from_its_pictures_is_reported(
    shift_s: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LiveTimeline.shifted
    monkeypatch.setattr(LiveTimeline, "shifted", lambda self, stream_s: real(self, stream_s) + shift_s)
    arrivals = Arrivals()
    assert arrivals.source.av_sync is None
    for _ in range(100):
        arrivals.next()
    assert arrivals.source.av_sync is not None
    assert arrivals.source.av_sync.offset_ms == pytest.approx(-1000 * float(shift_s), abs=1)
