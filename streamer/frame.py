"""The frame and its format: what moves through a pipeline, and how it is described.

Pixels stay in the decoder's planes (Y, U, V or a single gray plane); RGB does not occur here. Time is
`pts * time_base`, an exact rational; variable frame rate is the normal case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.errors import SourceError

Plane = npt.NDArray[Any]

UNSPECIFIED = 2
"""ITU-T H.273 code point for "unspecified" primaries, transfer and matrix."""

LIMITED, FULL = 1, 2
"""Values of `ColorSpec.range` (those of FFmpeg's AVColorRange); 0 is unspecified."""

PQ, HLG = 16, 18
"""`ColorSpec.transfer` code points of the two high-dynamic-range curves (H.273, table 3)."""

DEFAULT_RATE = Fraction(25)
"""Frames a second of a stream that doesn't tell its rate."""

MAX_PIXELS = 16384 * 16384
MAX_SIDE_PX = 32768
"""Larger frames are refused, in or out: they are damage far more often than pictures."""


@dataclass(frozen=True, slots=True)
class ColorSpec:
    """How code values mean light; in = out through the whole pipeline.

    `primaries`, `transfer` and `matrix` are H.273 code points, `range` is 0 (unspecified), LIMITED or FULL,
    `chroma_location` is "unspecified", "left", "center", "topleft", "top", "bottomleft" or "bottom".
    """

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0
    chroma_location: str = "unspecified"


@dataclass(frozen=True, slots=True)
class Mastering:
    """Static HDR metadata: SMPTE ST 2086 colour volume and CTA-861.3 light levels.

    `primaries` are CIE xy of red, green, blue and white as (x, y) pairs; `luminance` is (min, max) in cd/m²;
    `max_cll` and `max_fall` are in cd/m². A part that the stream doesn't carry is None.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    max_cll: int | None = None
    max_fall: int | None = None


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The planes of a pixel format: bits per sample and chroma subsampling as powers of two."""

    bits: int
    planes: int
    log2_chroma_w: int = 0
    log2_chroma_h: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of every plane of a `width` x `height` frame; odd sizes round chroma up."""
        chroma = (-(-height >> self.log2_chroma_h), -(-width >> self.log2_chroma_w))
        return ((height, width),) + (chroma,) * (self.planes - 1)


_SUBSAMPLING = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1)}
_PLANAR = re.compile(r"(?:yuv(?P<sub>420|422|444|440)p|gray)(?P<bits>9|10|12|14|16)?(?:le)?")


@cache
def layout_of(pix_fmt: str) -> PixelLayout | None:
    """The layout of a planar YUV or gray format (FFmpeg's name), or None if its samples aren't in such planes."""
    match = _PLANAR.fullmatch(pix_fmt)
    if match is None:
        return None
    bits = int(match["bits"] or 8)
    if match["sub"] is None:
        return PixelLayout(bits, planes=1)
    return PixelLayout(bits, 3, *_SUBSAMPLING[match["sub"]])


def without_range(pix_fmt: str) -> str:
    """The name of a pixel format without FFmpeg's old mark for full range: yuv420p for yuvj420p."""
    return pix_fmt.replace("yuvj", "yuv")


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What all frames of a stream have in common.

    `width` and `height` in pixels as stored (before `rotation`), `pix_fmt` FFmpeg's name of a planar YUV or gray
    format, `sar` the sample aspect ratio (0 = unknown), `rate` the nominal frame rate in Hz (None = unknown; a hint
    for encoders, never used as time), `rotation` in degrees counter-clockwise to turn the picture for display.
    """

    width: int
    height: int
    pix_fmt: str
    color: ColorSpec = ColorSpec()
    sar: Fraction = Fraction(0)
    rate: Fraction | None = None
    rotation: int = 0
    mastering: Mastering | None = None

    @property
    def layout(self) -> PixelLayout:
        """The planes of `pix_fmt`. Raises SourceError if it isn't a planar YUV or gray format."""
        layout = layout_of(self.pix_fmt)
        if layout is None:
            raise SourceError(f"can't work on pixel format {self.pix_fmt!r}: its samples aren't in Y, U, V planes")
        return layout


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture at one time.

    `planes`: read-only arrays [height, width], uint8 for 8-bit formats and uint16 (low bits used) for deeper ones.
    `pts` and `duration` count `time_base` seconds; `pts` strictly increases along a stream. `index` counts captured
    frames: a jump means that frames were dropped. `captured_ns` is `time.monotonic_ns()` at capture. `discontinuity`
    says that temporal state must not reach across this frame's start. `packets` are the packets of the streams that
    go along unchanged (audio, subtitles), read from the source around this frame; stages hand them on. `qp` is the
    mean H.264-equivalent quantisation parameter of the picture's blocks, as the decoder tells; None if it doesn't.
    `source` is the frame as it was before it was enhanced, as long as a later stage or sink wants it: it keeps the
    decoder's memory from being used again. `stabilised` says that history is in it already.
    """

    planes: tuple[Plane, ...]
    format: VideoFormat
    pts: int
    time_base: Fraction
    duration: int
    index: int
    captured_ns: int
    discontinuity: bool = False
    packets: tuple[Any, ...] = ()
    qp: float | None = None
    source: Frame | None = None
    stabilised: bool = False

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds."""
        return self.pts * self.time_base
