"""Colour without conversion: how untagged video is read, and how chroma follows luma to another size.

Nothing here changes what a code value means. The only arithmetic is the resampling of chroma planes, at the positions
where the stream says that its chroma samples lie (siting).
"""

from __future__ import annotations

from dataclasses import replace
from math import floor

import numpy as np
import numpy.typing as npt

import engines
from streamer.frame import FULL, LIMITED, UNSPECIFIED, ColorSpec, PixelLayout, Plane, VideoFormat

RGB, BT709, BT601 = 0, 1, 6
"""`ColorSpec.matrix` code points of RGB, HD and SD video (H.273, table 4)."""

_SITING = {
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.5, 0.0),
    "bottomleft": (0.0, 1.0),
    "bottom": (0.5, 1.0),
}
"""Position of a 4:2:0 chroma sample inside its 2 x 2 luma block, (x, y) in luma samples from the top-left luma sample
(H.273, clause 8.7)."""
SITINGS = tuple(_SITING)
"""Names of them, as in `ColorSpec.chroma_location`."""


def siting_of(color: ColorSpec) -> tuple[float, float]:
    """Where chroma samples lie, as (x, y) in luma samples; unspecified means left, as in MPEG-2, H.264 and HEVC."""
    return _SITING.get(color.chroma_location, _SITING["left"])


def matrix_of(format: VideoFormat) -> int:
    """The YUV matrix to assume where RGB is made: the tag, else BT.709 from 720 lines upwards and BT.601 below."""
    if format.color.matrix != UNSPECIFIED:
        return format.color.matrix
    return BT709 if format.height >= 720 else BT601


def range_of(color: ColorSpec) -> int:
    """LIMITED or FULL; unspecified means limited."""
    return FULL if color.range == FULL else LIMITED


def explicit(format: VideoFormat) -> VideoFormat:
    """`format` with its colour said in full, as untagged video of its size is taken to be.

    Live pictures need that: their size changes on the way, and browsers differ in what they guess.
    """
    color, matrix = format.color, matrix_of(format)
    system = BT709 if matrix == BT709 else BT601
    color = replace(
        color,
        matrix=matrix,
        primaries=system if color.primaries == UNSPECIFIED else color.primaries,
        transfer=system if color.transfer == UNSPECIFIED else color.transfer,
        range=range_of(color),
    )
    return replace(format, color=color)


class ChromaScaler:
    """Resamples chroma planes by an integer factor with a bicubic (Catmull-Rom) polyphase filter.

    Keys' cubic convolution with a = -0.5 (IEEE TASSP 29-6, 1981), the same kernel as the networks' skip connection;
    edges are replicated. Columns first, then rows, one 4-tap filter per output phase; both passes round to whole codes,
    which costs less than one code and halves the time of the exact two-dimensional filter. For one thread.
    """

    def __init__(self, layout: PixelLayout, color: ColorSpec, scale: int) -> None:
        x, y = siting_of(color)
        self._scale = scale
        self._peak = (1 << layout.bits) - 1
        self._deep = layout.bits != 8 * layout.dtype.itemsize
        self._vertical = [_taps(phase) for phase in _phases(scale, layout.log2_chroma_h, y)]
        self._horizontal = [_taps(phase) for phase in _phases(scale, layout.log2_chroma_w, x)]
        rows, columns = (
            tuple((tuple(map(float, taps)), anchor) for taps, anchor in axis)
            for axis in (self._vertical, self._horizontal)
        )
        self.filter = engines.ChromaFilter(layout.log2_chroma_w, layout.log2_chroma_h, rows, columns)
        """The same for an engine that does it."""
        self._scratch: tuple[Plane, Plane, list[Plane]] | None = None

    def resample(self, plane: Plane, into: Plane) -> None:
        """Fills `into` ([about scale·h, about scale·w], cropped for odd luma sizes) from `plane` [h, w]; same dtype."""
        import cv2

        if self._scale == 1:  # every sample stays what it is
            np.minimum(plane, self._peak, out=into)
            return
        lines, tall, phases = self._buffers(plane)
        for phase, (taps, anchor) in enumerate(self._vertical):
            cv2.filter2D(plane, -1, taps[:, None], lines, (0, anchor), borderType=cv2.BORDER_REPLICATE)
            tall[phase :: self._scale] = lines
        for target, (taps, anchor) in zip(phases, self._horizontal, strict=True):
            cv2.filter2D(tall, -1, taps[None], target, (anchor, 0), borderType=cv2.BORDER_REPLICATE)
        if into.shape == (tall.shape[0], tall.shape[1] * self._scale) and into.flags.c_contiguous:
            cv2.merge(phases, into.reshape(*tall.shape, self._scale))  # interleaves whole vectors at a time
        else:
            for phase, samples in enumerate(phases):
                target = into[:, phase :: self._scale]
                target[...] = samples[: target.shape[0], : target.shape[1]]
        if self._deep:
            np.minimum(into, self._peak, out=into)

    def _buffers(self, plane: Plane) -> tuple[Plane, Plane, list[Plane]]:
        if self._scratch is None or self._scratch[0].shape != plane.shape:
            tall = np.empty((plane.shape[0] * self._scale, plane.shape[1]), plane.dtype)
            self._scratch = np.empty_like(plane), tall, [np.empty_like(tall) for _ in range(self._scale)]
        return self._scratch


def _phases(scale: int, log2_subsampling: int, siting: float) -> list[float]:
    """Source positions of the first `scale` output chroma samples, in source chroma samples.

    Luma sample k of the output lies at (k + 0.5)/scale - 0.5 in the source; a chroma sample lies `siting` luma
    samples after the first luma sample of its block, in both.
    """
    block = 1 << log2_subsampling
    offset = siting if log2_subsampling else 0.0
    return [((block * k + offset + 0.5) / scale - 0.5 - offset) / block for k in range(scale)]


def _taps(phase: float) -> tuple[npt.NDArray[np.float32], int]:
    """Four cubic weights around `phase`, and the index of the one that falls on the sample itself."""
    base = floor(phase)
    weights = [_cubic(phase - base - offset) for offset in (-1, 0, 1, 2)]
    return np.array(weights, np.float32), 1 - base


def _cubic(x: float) -> float:
    """Keys' kernel, a = -0.5."""
    x, a = abs(x), -0.5
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return 0.0
