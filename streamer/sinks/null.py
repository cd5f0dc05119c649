"""`null:` — takes everything, keeps nothing: for measuring what comes before."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from streamer.frame import Frame, VideoFormat
from streamer.stage import Media


class NullSink:
    """Counts frames in `frames` and forgets them."""

    name = "null:"

    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = MappingProxyType({})

    def __init__(self) -> None:
        self.frames = 0
        self.format: VideoFormat | None = None

    def open(self, format: VideoFormat, media: Media) -> None:
        self.format = format

    def write(self, frame: Frame) -> None:
        self.frames += 1

    def close(self) -> None: ...

    def abort(self) -> None: ...
