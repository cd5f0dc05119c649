"""Clocks that jump in transport streams, and what only looks as if they did."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamer.clock import Splice, fraction
from streamer.frame import Frame
from streamer.sources import make_source
from streamer.stage import Source
from tests.clips import Clip

DVB_SUBTITLE = bytes.fromhex("20000f100001000205000f8000010000ff")
"""An empty page (ETSI EN 300 743)."""
ID3 = b"ID3\x04\0\0\0\0\0\x0aTXXX\0\0\0\0\0\0"
TICK_S = Fraction(1, 90000)


def frames_of(source: Source) -> Iterator[Frame]:
    source.open()
    try:
        while (frame := source.read()) is not None:
            yield frame
    finally:
        source.close()


def with_sparse_stream(path: Path, kind: str) -> Path:
    """50 s at 1 frame/s, and a stream with a packet every 15 s."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=1, width=64, height=48, options={"bf": "0", "g": "5"})
        video.pix_fmt = "yuv420p"
        sparse: Any = out.add_stream("dvbsub") if kind == "subtitle" else out.add_data_stream("timed_id3")
        for number in range(50):
            if number % 15 == 0:
                packet = av.Packet(DVB_SUBTITLE if kind == "subtitle" else ID3)
                packet.stream, packet.time_base = sparse, TICK_S
                packet.pts = packet.dts = number * 90000
                out.mux(packet)
            picture = av.VideoFrame.from_ndarray(np.full((72, 64), number, np.uint8), "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
    return path


@pytest.mark.parametrize("kind", ["subtitle", "data"])
def test_sparse_streams_are_no_jumps(tmp_path: Path, kind: str) -> None:
    source = make_source(str(with_sparse_stream(tmp_path / "sparse.ts", kind)))
    frames = list(frames_of(source))
    assert [frame.time - frames[0].time for frame in frames] == list(range(50))
    assert not any(frame.discontinuity for frame in frames)
    assert "jumps in time" not in source.counts
    times = [packet.pts * packet.time_base - frames[0].time for frame in frames for packet in frame.packets]
    assert times == ([0, 15, 30, 45] if kind == "subtitle" else [])


@pytest.mark.parametrize(("audio", "late"), [("aac", 0), (None, 100 * 25)])
def test_the_first_picture_behind_a_joint_is_the_discontinuity(tmp_path: Path, audio: str | None, late: int) -> None:
    """Pictures of the first recording are still in the decoder when the second begins."""
    first = Clip(frames=30, audio=audio, options={"bf": "3"}).write(tmp_path / "a.ts")
    pts = [late + number for number in range(30)]
    second = Clip(32, 32, frames=30, audio=None if late else audio, pts=pts).write(tmp_path / "b.ts")
    (tmp_path / "ab.ts").write_bytes(first.read_bytes() + second.read_bytes())
    source = make_source(str(tmp_path / "ab.ts"))
    frames = list(frames_of(source))
    assert len(frames) == 60
    assert [frame.index for frame in frames if frame.discontinuity] == [30]
    assert source.counts["jumps in time"] == 1
    assert not any("ended early" in note for note in source.notes)


def joined(steps: Iterable[tuple[str, float]]) -> tuple[list[float], int]:
    """When packets (kind of stream, dts in s; each lasts 0.1 s) are after joining, and the number of jumps."""
    splice, times = Splice(), []
    with av.open(io.BytesIO(), "w", format="mpegts") as holder:
        streams: dict[str, Any] = {"video": holder.add_stream("mpeg2video"), "audio": holder.add_stream("mp2")}
        streams["subtitle"] = holder.add_stream("dvbsub")
        for kind, time_s in steps:
            packet = av.Packet(b"x")
            packet.stream, packet.time_base = streams[kind], TICK_S
            packet.pts = packet.dts = round(time_s / TICK_S)
            packet.duration = 9000
            splice.join(packet)
            assert packet.pts == packet.dts
            times.append(round(float(packet.dts * fraction(packet.time_base)), 3))
    return times, splice.jumps


def test_sound_of_the_old_clock_may_come_behind_pictures_of_the_new_one() -> None:
    steps = [("video", 0.0), ("audio", 0.0), ("video", 100.0), ("audio", 0.1), ("video", 100.1), ("audio", 100.1)]
    assert joined(steps) == ([0, 0, 0.1, 0.1, 0.2, 0.2], 1)


def test_sound_that_was_longer_than_its_picture_moves_both() -> None:
    steps = [("video", 0.0), ("audio", 0.0), ("audio", 0.1), ("audio", 0.2), ("audio", 0.3)]
    after = [("video", 50.0), ("audio", 50.0), ("video", 50.1), ("audio", 50.1)]
    assert joined([*steps, *after]) == ([0, 0, 0.1, 0.2, 0.3, 0.1, 0.4, 0.5, 0.5], 1)


def test_a_pause_in_the_sound_is_no_jump() -> None:
    steps = [("audio", 0.0), *(("video", number / 10) for number in range(150)), ("audio", 15.0), ("video", 15.0)]
    assert joined(steps) == ([time_s for _, time_s in steps], 0)


def test_a_clock_that_goes_back_takes_subtitles_along() -> None:
    steps = [("video", 10.0), ("subtitle", 10.0), ("video", 10.1), ("video", 3.0), ("subtitle", 3.0), ("video", 3.1)]
    assert joined(steps) == ([10, 10, 10.1, 10.2, 10.2, 10.3], 1)
