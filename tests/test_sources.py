"""One contract for every source: a new source joins by an entry in SOURCES."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

import streamer
from streamer.errors import SourceError
from streamer.pipeline import Pipeline
from streamer.sources import make_source, media, opening
from streamer.stage import Source
from tests.clips import Clip
from tests.live.peers import served

SOURCES: dict[str, Callable[[Path, str], Source]] = {
    "file": lambda folder, address: make_source(str(folder / "clip.mkv")),
    "file from a start": lambda folder, address: make_source(str(folder / "clip.mkv"), start=Fraction(1, 5)),
    "picture": lambda folder, address: make_source(str(folder / "f1.png")),
    "numbered pictures": lambda folder, address: make_source(str(folder / "f%d.png")),
    "pattern": lambda folder, address: make_source("test:64x48@25,20"),
    "paced": lambda folder, address: make_source(str(folder / "clip.mkv"), live=True),
    "rated": lambda folder, address: make_source("test:64x48@25,20", live=True, rate=Fraction(20)),
    "live": lambda folder, address: make_source(f"{address}/hls/index.m3u8"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    clip = Clip(64, 48, frames=20, audio="aac").write(folder / "clip.mkv")
    streamer.enhance(clip, [folder / "f%d.png", f"hls:{folder / 'hls'}"], model="none", live=False)
    return folder


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, folder: Path) -> Iterator[Source]:
    with served(folder) as address:
        made = SOURCES[request.param](folder, address)
        yield made
        made.close()


@pytest.mark.parametrize("read_before", [0, 1])
def test_there_is_nothing_to_read_after_the_end(source: Source, read_before: int) -> None:
    source.open()
    for _ in range(read_before):
        assert source.read() is not None
    source.close()
    source.close()
    assert source.read() is None


def test_there_is_nothing_to_read_after_an_interrupt_before_it_began(source: Source) -> None:
    source.interrupt()
    source.open()
    assert source.read() is None


class TestSilentServer:
    """A server that takes the connection, or the first bytes of an answer, and says no more."""

    @pytest.fixture
    def address(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setattr(opening, "_OPEN_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"

    def test_it_is_said_what_was_waited_for(self, address: str) -> None:
        with pytest.raises(SourceError, match=r"can't read http.*/a.mp4: no answer within 0.2 s; check the address"):
            make_source(address).open()

    def test_an_interrupt_is_an_end_and_no_failure(self, address: str) -> None:
        source = make_source(address)
        source.interrupt()
        source.open()
        assert source.read() is None
        source.close()

    def test_a_job_that_is_interrupted_meanwhile_is_no_failure(self, address: str) -> None:
        pipeline = Pipeline(make_source(address), [], [])
        pipeline.start()
        pipeline.stop()
        pipeline.wait()


def test_an_answer_that_breaks_off_is_said(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(opening, "READ_S", 0.2)
    monkeypatch.setattr(media, "READ_S", 0.2)
    content = (
        Clip(64, 48, frames=50, container_options={"movflags": "faststart"}).write(folder / "fast.mp4").read_bytes()
    )
    head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = make_source(f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4")
        pipeline = Pipeline(source, [], []).start()
        peer, _ = server.accept()
        with peer:
            peer.sendall(head + content[: len(content) * 2 // 3])
            with pytest.raises(SourceError, match=r"can't go on reading http.*: it was silent for 0.2 s"):
                pipeline.wait()
    assert pipeline.stats.stages["deliver"].frames_out > 0
