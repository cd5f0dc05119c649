"""Live inputs that end: everything arrives, once, and the job ends with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from streamer.frame import Frame
from streamer.sources import make_source
from streamer.sources.connection import Connection, Lost
from streamer.sources.inputs import input_for
from tests.clips import Clip, copied_packets, delayed_sound
from tests.live.peers import Reader, served


def test_a_recording_plays_at_its_own_speed_when_asked(tmp_path: Path) -> None:
    clip = Clip(64, 48, frames=10).write(tmp_path / "clip.mp4")
    source = make_source(str(clip), live=True)
    with Reader(source) as reader:
        reader.join()
    assert source.live
    assert len(reader.frames) == 10
    spent_ns = reader.frames[-1].captured_ns - reader.frames[0].captured_ns
    assert spent_ns >= 9 * 40_000_000 - 1_000_000


def different(frames: Iterable[Frame]) -> set[bytes]:
    """The pictures among the frames, without repetitions."""
    return {frame.planes[0].tobytes() for frame in frames}


@pytest.mark.parametrize("behind", ["pictures", pytest.param("sound", marks=pytest.mark.slow)])
def test_an_input_that_ends_gives_all_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: str) -> None:
    """The decoder holds pictures back, and sound may lie behind the last one: a repeated picture takes it along."""
    if behind == "pictures":
        clip = Clip(frames=15, audio="mp2", options={"bf": "2"}).write(tmp_path / "clip.ts")
    else:
        plain = Clip(frames=15, audio="mp2", codec="mjpeg", pix_fmt="yuvj420p", options={}).write(
            tmp_path / "plain.mkv"
        )
        clip = delayed_sound(plain, tmp_path / "clip.mkv", Fraction(1, 5))
    pipe = replace(input_for("-"), target=str(clip))
    monkeypatch.setattr("streamer.sources.live.input_for", lambda url, transport: pipe)
    source = make_source("-", live=True)
    with Reader(source) as reader:
        reader.join()
    assert reader.error is None
    assert len(different(reader.frames)) == 15
    assert len(reader.frames) == 15 + (behind == "sound")
    assert source.counts == ({"stand-in frames": 1} if behind == "sound" else {})
    (sounds,) = copied_packets(clip, "audio")
    assert sum(len(frame.packets) for frame in reader.frames) == len(sounds) - 1  # the first begins before its picture


class TestPlaylists:
    """HLS lists that end."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> Iterator[str]:
        with served(tmp_path) as address:
            yield f"{address}/list.m3u8"

    def test_a_list_on_demand_is_played_once(self, tmp_path: Path, url: str) -> None:
        self._write(tmp_path, frames=15)
        source = make_source(url)
        with Reader(source) as reader:
            reader.join()
        assert reader.error is None
        assert len(reader.frames) == 15
        assert not source.counts

    @pytest.mark.slow
    def test_a_live_list_that_ends_ends_the_stream(self, tmp_path: Path, url: str) -> None:
        path = self._write(tmp_path, frames=50)
        whole = path.read_text()
        path.write_text(whole.replace("#EXT-X-ENDLIST", ""))
        source = make_source(url)
        with Reader(source) as reader:
            reader.wait_frames(10)
            path.write_text(whole)
            reader.join()
        assert reader.error is None
        assert len(reader.frames) == 50 + source.counts.get("stand-in frames", 0)
        assert "reconnects" not in source.counts

    def test_a_list_that_fails_on_the_way_is_an_error(
        self, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._write(tmp_path, frames=5)
        real = Connection.packets

        def failing(self: Connection) -> Iterator[Any]:
            yield from itertools.islice(real(self), 3)
            raise Lost("connection reset by peer")

        monkeypatch.setattr(Connection, "packets", failing)
        with Reader(make_source(url)) as reader:
            reader.join()
        assert "can't go on reading http://127.0.0.1" in str(reader.error)
        assert "connection reset by peer" in str(reader.error)

    def _write(self, folder: Path, frames: int) -> Path:
        path = folder / "list.m3u8"
        return Clip(frames=frames, container_options={"hls_list_size": "0"}).write(path)
