"""One contract for every source: a new source joins by an entry in SOURCES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

import streamer
from streamer.sources import make_source
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
