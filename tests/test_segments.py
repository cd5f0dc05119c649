"""Recordings in pieces: together they are the whole, and each plays alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

import streamer
from streamer.errors import SinkError, UsageError
from streamer.pipeline import Pipeline
from streamer.sinks import make_sink
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.media import MediaSink
from streamer.sources import make_source
from tests.clips import Clip, copied_packets, decoded, luma, times


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_segments_are_the_whole_in_pieces(tmp_path: Path, suffix: str) -> None:
    pts = [40 * k + (13 if k % 3 else 0) for k in range(90)]  # a variable rate, in milliseconds
    clip = Clip(64, 48, frames=90, pts=pts, time_base=Fraction(1, 1000), audio="aac").write(tmp_path / "in.mkv")
    whole = tmp_path / f"whole{suffix}"
    outputs = [str(tmp_path / f"rec-%03d{suffix}"), str(whole)]
    summary = streamer.enhance(clip, outputs, model="none", segment=1, crf=5, preset="ultrafast")
    segments = sorted(tmp_path.glob("rec-*"))
    assert [path.name for path in segments] == [f"rec-00{number}{suffix}" for number in range(4)]
    assert sum(len(decoded(path)) for path in segments) == summary.frames == 90
    origin, number = times(whole)[0], 0
    pictures, whole_pictures = [picture for path in segments for picture in decoded(path)], decoded(whole)
    assert all(abs(luma(a).astype(int) - luma(b)).mean() < 3 for a, b in zip(pictures, whole_pictures, strict=True))
    (sound,) = copied_packets(whole, "audio")
    joined: list[tuple[bytes, Fraction]] = []
    for path in segments:
        found = times(path)
        begin = Fraction(pts[number], 1000)
        assert abs(found[0]) <= Fraction(1, 40), "each begins at zero (sound may come a packet earlier)"
        assert [time - found[0] for time in found] == [
            Fraction(t, 1000) - begin for t in pts[number : number + len(found)]
        ]
        (packets,) = copied_packets(path, "audio")
        joined += [(content, when + begin - found[0]) for content, when in packets if when is not None]
        number += len(found)
    assert [content for content, _ in joined] == [content for content, _ in sound]
    for (_, mine), (_, theirs) in zip(joined, sound, strict=True):
        assert theirs is not None
        assert abs(mine - (theirs - origin)) <= Fraction(2, 1000)


def test_a_pause_longer_than_a_segment_leaves_no_number_out(tmp_path: Path) -> None:
    pts = [0, 40, 3500, 3540, 4100]
    clip = Clip(64, 48, frames=5, pts=pts, time_base=Fraction(1, 1000)).write(tmp_path / "in.mkv")
    streamer.enhance(clip, str(tmp_path / "rec-%d.mkv"), model="none", segment=1)
    assert [len(times(path)) for path in sorted(tmp_path.glob("rec-*"))] == [2, 2, 1]


def test_segments_without_sound_are_complete(tmp_path: Path) -> None:
    clip = Clip(frames=75, audio="pcm_alaw", sound_s=Fraction(1)).write(tmp_path / "in.nut")
    streamer.enhance(clip, str(tmp_path / "rec-%d.mkv"), model="none", segment=1)
    assert [len(times(path)) for path in sorted(tmp_path.glob("rec-*"))] == [25, 25, 25]


def test_usage(tmp_path: Path) -> None:
    pattern = str(tmp_path / "rec-%03d.mkv")
    with pytest.raises(UsageError, match="say with --segment"):
        streamer.enhance("test:", pattern, model="none")
    with pytest.raises(UsageError, match=r"name the output as in rec-%03d\.mkv"):
        streamer.enhance("test:", str(tmp_path / "rec.mkv"), model="none", segment=5)
    with pytest.raises(UsageError, match="out of range: 1 to 86400 seconds"):
        streamer.enhance("test:", pattern, model="none", segment=0.1)
    (tmp_path / "rec-017.mkv").touch()
    with pytest.raises(UsageError, match=r"rec-017\.mkv exists already"):
        streamer.enhance("test:", pattern, model="none", segment=5)
    assert [path.name for path in tmp_path.iterdir()] == ["rec-017.mkv"]


def test_complete_segments_outlive_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MediaSink.close

    def fail_second(self: MediaSink) -> None:
        if self.name.endswith("rec-1.mkv"):
            self.abort()
            raise SinkError("the disk is full")
        real(self)

    monkeypatch.setattr(MediaSink, "close", fail_second)
    sink = make_sink(str(tmp_path / "rec-%d.mkv"), EncoderSettings(), segment_s=Fraction(1))
    with (
        pytest.raises(SinkError, match="the disk is full"),
        Pipeline(make_source("test:64x48@25,1000"), [], [sink]),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["rec-0.mkv"]
    with av.open(str(tmp_path / "rec-0.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25
