"""One timeline for a stream in pieces: what becomes of jumps, gaps, lateness and absurd times."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest

from streamer.backoff import Backoff
from streamer.timeline import LiveTimeline

INTERVAL_S = Fraction(1, 25)


def place(timeline: LiveTimeline, stream: Sequence[Fraction | None], arrivals: Sequence[Fraction]) -> list[Fraction]:
    """Times in seconds of pictures that weren't refused, to the nearest tick."""
    placed = [timeline.place(s, a) for s, a in zip(stream, arrivals, strict=True)]
    return [Fraction(pts, 90000) for pts in placed if pts is not None]


def grid(count: int, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + k * INTERVAL_S for k in range(count)]


def test_spacing_is_the_streams_although_arrivals_jitter() -> None:
    arrivals = [time + Fraction(k % 3, 100) for k, time in enumerate(grid(20))]
    assert place(LiveTimeline(), grid(20, Fraction(1000)), arrivals) == grid(20)


@pytest.mark.parametrize("drift", [Fraction(1, 10_000), Fraction(-1, 10_000)])
def test_a_clock_that_drifts_keeps_its_spacing_and_stays_in_reach(drift: Fraction) -> None:
    """Five hours of a camera whose crystal is wrong by 100 parts in a million, and of a network that delays."""
    timeline = LiveTimeline()
    stream = [Fraction(k, 2) for k in range(2 * 3600 * 5)]
    arrivals = [time * (1 + drift) + Fraction(k * 7 % 11, 100) for k, time in enumerate(stream)]
    for k, (time, arrival) in enumerate(zip(stream, arrivals, strict=True)):
        when = timeline.place(time, arrival)
        assert when == 90000 * time, k
        assert abs(arrival - timeline.lag_s - time) < Fraction(15, 100)
    assert timeline.jumps == timeline.late == timeline.repaired == 0
    timeline.reconnected()
    when = timeline.place(Fraction(7), arrivals[-1] + 1)
    assert when is not None
    assert abs(Fraction(when, 90000) - stream[-1] - 1) < Fraction(15, 100), "the timeline goes on, it doesn't jump"


def test_a_burst_at_the_beginning_is_one_picture_and_leaves_no_gap() -> None:
    timeline = LiveTimeline()
    backlog = place(timeline, grid(12, Fraction(7)), [Fraction(k, 1000) for k in range(12)])
    after = place(timeline, grid(5, Fraction(7) + 12 * INTERVAL_S), grid(5, Fraction(11, 1000) + INTERVAL_S))
    assert backlog == [0]
    assert after == grid(5, Fraction(11, 1000) + INTERVAL_S)
    assert timeline.late == 11


def test_a_reconnected_stream_goes_on_where_it_arrives() -> None:
    timeline = LiveTimeline()
    place(timeline, grid(5, Fraction(70)), grid(5))
    timeline.reconnected()
    assert place(timeline, grid(3, Fraction(0)), grid(3, Fraction(2))) == grid(3, Fraction(2))
    assert timeline.jumps == 0


@pytest.mark.parametrize("jump", [Fraction(3600), Fraction(2**62), Fraction(-3600), Fraction(-(2**62))])
def test_a_jump_is_closed_and_counted(jump: Fraction) -> None:
    timeline = LiveTimeline()
    stream = grid(10) + grid(20, jump)
    placed = place(timeline, stream, grid(30))
    assert timeline.jumps == 1
    steps = [after - before for before, after in itertools.pairwise(placed)]
    assert all(0 < step < Fraction(1, 2) for step in steps)
    assert abs(placed[-1] - 29 * INTERVAL_S) < INTERVAL_S


@pytest.mark.parametrize("error", [Fraction(3600), Fraction(2**62)])
def test_single_absurd_times_cost_nothing(error: Fraction) -> None:
    timeline = LiveTimeline()
    stream = [time + (error if k % 10 == 9 else 0) for k, time in enumerate(grid(50))]
    assert place(timeline, stream, grid(50)) == grid(50)
    assert (timeline.jumps, timeline.late, timeline.repaired) == (0, 0, 5)


def test_a_missing_time_is_the_arrival() -> None:
    timeline = LiveTimeline()
    assert place(timeline, [None] * 5, grid(5)) == grid(5)
    assert timeline.repaired == 5


def test_late_pictures_are_refused_until_they_stay_late() -> None:
    timeline = LiveTimeline()
    place(timeline, grid(5), grid(5))
    for _ in range(10):
        timeline.fill(3600)
    burst = [Fraction(14, 25)] * 10  # a backlog: what the filled frames covered, then the present
    assert place(timeline, grid(10, Fraction(5, 25)), burst) == []
    assert timeline.late == 10
    assert place(timeline, [Fraction(15, 25)], [Fraction(15, 25)]) == [Fraction(15, 25)]
    arrivals = grid(12, Fraction(2))
    for _ in range(40):
        timeline.fill(3600)
    assert place(timeline, grid(12, Fraction(16, 25)), arrivals), "a longer path is accepted after a while"


def test_times_strictly_increase() -> None:
    timeline = LiveTimeline()
    placed = place(timeline, [None, None, Fraction(5), Fraction(5), None], [Fraction(0)] * 5)
    assert placed == sorted(set(placed))


def test_backing_off_grows_to_a_bound_and_starts_anew() -> None:
    backoff = Backoff(0.5, 10)
    waits = [backoff.next_s() for _ in range(10)]
    assert all(min(0.5 * 2**k, 10) / 2 <= wait <= min(0.5 * 2**k, 10) for k, wait in enumerate(waits))
    backoff.succeeded()
    assert backoff.next_s() <= 0.5
