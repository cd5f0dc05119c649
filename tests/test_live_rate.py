"""A live stream held to a rate of the user's: which frames are given, when, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import streamer
from streamer.errors import UsageError
from streamer.frame import Frame
from streamer.sources import make_source
from streamer.sources.paced import PacedSource
from streamer.sources.rated import LEFT_OUT, RatedSource
from streamer.stage import Media
from tests.clips import make_frame

UNIT = Fraction(1, 90000)


class Times:
    """A live source of frames at these times, in ticks; every frame carries its number as a packet."""

    live = True
    media = Media()
    notes: tuple[str, ...] = ()

    def __init__(self, times: Sequence[int], rate: Fraction, indices: Sequence[int] | None = None) -> None:
        frame = make_frame()
        self.format = replace(frame.format, rate=rate)
        self._frames = [
            replace(frame, format=self.format, pts=pts, time_base=UNIT, duration=1, index=index, packets=(number,))
            for number, (pts, index) in enumerate(zip(times, indices or range(len(times)), strict=True))
        ]
        self.frames_total: int | None = len(times)
        self.counts = {"oddities": 1}
        self.calls: list[str] = []

    def open(self) -> None:
        self.calls.append("open")

    def read(self) -> Frame | None:
        return self._frames.pop(0) if self._frames else None

    def interrupt(self) -> None:
        self.calls.append("interrupt")

    def close(self) -> None:
        self.calls.append("close")


def given(source: RatedSource) -> list[Frame]:
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    return frames


def jitter(number: int) -> int:
    """Up to a third of a frame interval at 60 Hz, the same in every run."""
    return (number * 7919) % 1000 - 500


def test_half_the_rate_is_every_second_frame_at_its_own_time() -> None:
    source = RatedSource(Times([1500 * n for n in range(60)], Fraction(60)), Fraction(30))
    frames = given(source)
    assert [frame.pts for frame in frames] == [3000 * n for n in range(30)]
    assert [frame.index for frame in frames] == list(range(30))
    assert {frame.duration for frame in frames} == {3000}
    assert {frame.format for frame in frames} == {source.format}
    assert source.format.rate == 30
    assert source.counts == {"oddities": 1, LEFT_OUT: 30}
    assert [packet for frame in frames for packet in frame.packets] == list(range(59))


@pytest.mark.parametrize("rate", [60, 50, 30, 25, 24, 7])
def test_there_is_one_frame_in_every_slot_whatever_the_jitter(rate: int) -> None:
    source = RatedSource(Times([1500 * n + jitter(n) for n in range(600)], Fraction(60)), Fraction(rate))
    times = [frame.time for frame in given(source)]
    assert abs(len(times) - 10 * rate) <= 1
    for second in range(1, 9):
        assert abs(sum(second <= time < second + 1 for time in times) - rate) <= 1


def test_a_slower_source_keeps_its_frames_and_its_rate() -> None:
    source = RatedSource(Times([6000 * n + jitter(n) for n in range(30)], Fraction(15)), Fraction(30))
    assert len(given(source)) == 30
    assert source.format.rate == 15
    assert LEFT_OUT not in source.counts


def test_an_index_jumps_only_where_frames_were_lost() -> None:
    indices = [n if n < 20 else n + 5 for n in range(40)]
    source = RatedSource(Times([1500 * n for n in range(40)], Fraction(60), indices), Fraction(30))
    assert [frame.index for frame in given(source)] == [*range(10), *range(15, 25)]


def test_a_discontinuity_is_not_left_out_with_its_frame() -> None:
    inner = Times([1500 * n for n in range(8)], Fraction(60))
    inner._frames[3] = replace(inner._frames[3], discontinuity=True)
    frames = given(RatedSource(inner, Fraction(30)))
    assert [frame.discontinuity for frame in frames] == [False, False, True, False]


def test_the_rest_is_the_source_s() -> None:
    inner = Times([0, 1500], Fraction(60))
    source = RatedSource(inner, Fraction(30))
    source.open()
    source.interrupt()
    source.close()
    assert inner.calls == ["open", "interrupt", "close"]
    assert source.live
    assert source.media is inner.media
    assert source.frames_total == 1
    assert source.notes == ()


def test_who_is_held_to_a_rate() -> None:
    camera = make_source("rtsp://127.0.0.1/x", rate=Fraction(10), duration=Fraction(5))
    assert isinstance(camera, RatedSource)
    assert camera.frames_total is None, "not known before it is opened"
    assert isinstance(make_source("test:64x48@30", rate=Fraction(10), live=True), RatedSource)
    assert isinstance(make_source("frames/%05d.png", rate=Fraction(10), live=True), PacedSource)
    assert make_source("a.mp4", rate=Fraction(10)).live is False
    with pytest.raises(UsageError, match="numbered sequences"):
        make_source("test:64x48@30", rate=Fraction(10))
    with pytest.raises(UsageError, match="--start doesn't apply"):
        make_source("rtsp://127.0.0.1/x", start=Fraction(1))


def test_a_job_is_held_to_its_rate(tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    summary = streamer.enhance("test:64x48@50", str(target), live=True, fps=10, duration=0.4)
    assert summary.stats["events"][LEFT_OUT] == 15
    assert summary.frames + summary.stats["dropped"] == 5
    assert sum(summary.levels.values()) == summary.frames
