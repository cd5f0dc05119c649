"""Every container, codec and file name that a job may write."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import pytest

import streamer
from tests.clips import Clip, decoded, times
from tests.test_media import transcode


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "a.mkv", "a.mov", "a.webm", "a.avi", "a.ts", "a.flv", "a.nut", "a.gif", "a.m4v"],
)
def test_containers(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    source = Clip(frames=8).write(tmp_path / "in.mp4")
    streamer.enhance(source, tmp_path / name)
    pictures = decoded(tmp_path / name)
    assert len(pictures) == 8
    assert (pictures[0].width, pictures[0].height) == (128, 96)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "ffv1", "prores", "mjpeg", "mpeg4"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    source = Clip(frames=8).write(tmp_path / "in.mp4")
    streamer.enhance(source, tmp_path / "out.mkv", codec=codec)
    assert len(decoded(tmp_path / "out.mkv")) == 8


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_clips_shorter_than_the_encoder_looks_ahead(tmp_path: Path, frames: int) -> None:
    source = Clip(frames=frames).write(tmp_path / "in.mp4")
    for _ in range(3):  # libx265's unset decoding times vary from run to run
        transcode(source, tmp_path / "out.mp4", codec="hevc", preset="veryfast", force=True)
        assert times(tmp_path / "out.mp4") == times(source)


def test_a_constant_rate_container_says_how_far_it_moved_pictures(tmp_path: Path) -> None:
    clip = Clip(time_base=Fraction(1, 1000), pts=[0, 10, 100, 300])
    summary = transcode(clip.write(tmp_path / "in.mp4"), tmp_path / "out.avi", codec="h264")
    assert len(decoded(tmp_path / "out.avi")) == 4
    assert any("its clock is coarse: pictures moved by up to" in note for note in summary.notes)


@pytest.mark.parametrize("name", ["100% real.mp4", "a:b.mkv", "-dash.mp4", "späce ünï.mkv", "%.png"])
def test_unusual_file_names(tmp_path: Path, name: str) -> None:
    source = Clip(frames=1).write(tmp_path / "in.mp4").rename(tmp_path / f"in {name}.mp4")
    streamer.enhance(source, tmp_path / name)
    assert len(decoded(tmp_path / name)) == 1


def test_a_clock_coarser_than_the_rate_gives_each_picture_its_own_tick(tmp_path: Path) -> None:
    clip = Clip(time_base=Fraction(1, 1_000_000), pts=[0, 7, 500, 501, 1_000_000])
    source = clip.write(tmp_path / "in.mp4")
    for name in ("out.mkv", "out.flv", "out.gif"):
        transcode(source, tmp_path / name, codec=None)
        found = times(tmp_path / name)
        assert len(found) == 5
        assert found == sorted(set(found))


def test_raw_video_is_written_although_it_cannot_be_read_back(tmp_path: Path) -> None:
    streamer.enhance(Clip(frames=2).write(tmp_path / "in.mp4"), tmp_path / "out.yuv", model="none")
    assert (tmp_path / "out.yuv").stat().st_size == 2 * 64 * 48 * 3 // 2


def test_pictures_beside_a_video_keep_their_own_codec(tmp_path: Path) -> None:
    video, picture = tmp_path / "out.mp4", tmp_path / "%d.png"
    summary = streamer.enhance("test:64x48@10,2", [video, picture], model="none", codec="hevc", crf=30)
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    assert (tmp_path / "2.png").read_bytes().startswith(b"\x89PNG")
    assert any("--codec, --crf and --preset don't apply to it" in note for note in summary.notes)
    streamer.enhance("test:64x48@10,1", tmp_path / "out.jpg", model="none", codec="mjpeg", crf=5)
    assert (tmp_path / "out.jpg").read_bytes().startswith(b"\xff\xd8")
