"""The test clip: the packaged webcam recording, cropped and played to and fro."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import av

from benchmarks.machine import ROOT
from streamer.convert import planes_of, to_planar
from streamer.frame import LIMITED, ColorSpec, Frame, VideoFormat
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.media import MediaSink
from streamer.stage import Media

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = VideoFormat(640, 360, "yuv420p", ColorSpec(6, 6, 6, LIMITED, "left"), Fraction(1), Fraction(30))
DESCRIPTION = (
    "streamer/samples/book.mkv (webcam, 640x480), middle 640x360, limited range, played to and fro; "
    "H.264 veryfast CRF 23, 30 frames/s"
)

_SOURCE = ROOT / "streamer" / "samples" / "book.mkv"


def make_clip(path: Path, frames: int) -> None:
    """Writes `frames` frames of the test clip to `path`, replacing it."""
    pictures = webcam_frames()
    sink = MediaSink(str(path), EncoderSettings("h264", 23, "veryfast"), force=True)
    sink.open(FORMAT, Media())
    for frame in stamped(pictures, frames):
        sink.write(frame)
    sink.close()


def webcam_frames() -> list[Frame]:
    """The recording's own frames, once, in FORMAT."""
    return [_cropped(picture) for picture in _decoded()]


def stamped(frames: list[Frame], count: int) -> Iterator[Frame]:
    """`frames` forwards, backwards and so on, `count` in all, with times as of one stream; nothing is copied."""
    fro: Iterable[Frame] = reversed(frames[1:-1])
    for index, frame in enumerate(islice(cycle(chain(frames, fro)), count)):
        yield replace(frame, pts=index, index=index)


def _decoded() -> Iterator[av.VideoFrame]:
    whole = replace(FORMAT, height=480)
    with av.open(str(_SOURCE)) as container:
        for picture in container.decode(video=0):
            yield to_planar(picture, whole)


def _cropped(picture: av.VideoFrame) -> Frame:
    luma, *chroma = planes_of(picture, FORMAT.layout)
    planes = (luma[60:420], *(plane[30:210] for plane in chroma))
    return Frame(planes, FORMAT, 0, 1 / Fraction(30), 1, 0, 0)
