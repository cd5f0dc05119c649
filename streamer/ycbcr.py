"""Exact conversion between Y'CbCr and R'G'B', and from one matrix, range, depth and chroma siting to another.

In float32, rounded once, and no slower than libswscale where colours are computed (6 to 16 ms for 1280x720, Zen 4).
libswscale (FFmpeg 8) takes 65280 for white in RGB deeper than 8 bits, is half a code low in full-range chroma of 8
bits, and takes chroma for centred wherever its siting is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streamer.color import matrix_of, range_of, siting_of
from streamer.frame import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamer.frame import Plane, VideoFormat

Floats = npt.NDArray[np.float32]

_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""KR and KB by matrix (H.273, table 4)."""
_BAND_ROWS, _MARGIN_ROWS = 128, 8
"""Even, so that bands begin with whole blocks of chroma."""


def knows(*formats: VideoFormat) -> bool:
    """Whether the matrices of these formats are among those that are computed here."""
    return all(matrix_of(format) in _WEIGHTS for format in formats)


def same_matrix(first: VideoFormat, second: VideoFormat) -> bool:
    """Whether the same numbers mean the same colours, apart from their range."""
    numbers = matrix_of(first), matrix_of(second)
    return numbers[0] == numbers[1] or _WEIGHTS.get(numbers[0], 0) == _WEIGHTS.get(numbers[1], 1)


def to_rgb(planes: Sequence[Plane], format: VideoFormat, bits: int) -> npt.NDArray[Any]:
    """R'G'B' [height, width, 3] of 8 (uint8) or 16 bits (uint16), full range, of Y, Cb and Cr."""
    height, width = planes[0].shape
    rgb = np.empty((height, width, 3), _dtype(bits))
    for band in _bands(height):
        levels = _multiplied(_levels(_cut(planes, format, band.around), format), _to_rgb(format))
        rgb[band.rows] = _codes(levels[band.inside], (1 << bits) - 1, 0, bits)
    return rgb


def from_rgb(rgb: npt.NDArray[Any], format: VideoFormat, bits: int) -> tuple[Plane, ...]:
    """The planes in `format`, read-only, of R'G'B' [height, width, 3] of so many bits, full range."""
    unit, matrix = np.float32(1 / ((1 << bits) - 1)), np.linalg.inv(_to_rgb(format))
    return _stored(format, lambda rows: _multiplied(rgb[rows].astype(np.float32) * unit, matrix))


def converted(planes: Sequence[Plane], source: VideoFormat, target: VideoFormat) -> tuple[Plane, ...]:
    """The planes of `source`, as they are in `target`, which has the same size; read-only. Both are Y, Cb and Cr."""
    matrix = np.eye(3) if same_matrix(source, target) else np.linalg.inv(_to_rgb(target)) @ _to_rgb(source)
    return _stored(target, lambda rows: _multiplied(_levels(_cut(planes, source, rows), source), matrix))


def rescaled(luma: Plane, source: VideoFormat, target: VideoFormat) -> Plane:
    """Luma of `source` in the range and depth of `target`."""
    if (range_of(source.color), source.layout.bits) == (range_of(target.color), target.layout.bits):
        return luma
    (unit, zero), (own_unit, own_zero) = _span(target, 0), _span(source, 0)
    levels = (luma.astype(np.float32) - np.float32(own_zero)) * np.float32(1 / own_unit)
    return _codes(levels, unit, zero, target.layout.bits)


class _Band(NamedTuple):
    """Some rows of luma, the rows around them that chroma's filters need, and where the former lie in the latter."""

    rows: slice
    around: slice
    inside: slice


def _bands(height: int) -> Iterator[_Band]:
    """So that a large picture takes no more memory in float32 than a small one."""
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        first, last = max(0, top - _MARGIN_ROWS), min(bottom + _MARGIN_ROWS, height)
        yield _Band(slice(top, bottom), slice(first, last), slice(top - first, bottom - first))


def _cut(planes: Sequence[Plane], format: VideoFormat, rows: slice) -> list[Plane]:
    return [plane[_of_plane(rows, format, index)] for index, plane in enumerate(planes)]


def _of_plane(rows: slice, format: VideoFormat, index: int) -> slice:
    """Rows of a plane, of rows of luma that begin with whole blocks."""
    shift = format.layout.log2_chroma_h if index else 0
    return slice(rows.start >> shift, -(-rows.stop >> shift))


def _stored(format: VideoFormat, levels: Callable[[slice], Floats]) -> tuple[Plane, ...]:
    """The planes of `format`, of what `levels` gives for rows of it."""
    planes = [
        np.empty(shape, _dtype(format.layout.bits)) for shape in format.layout.shapes(format.width, format.height)
    ]
    for band in _bands(format.height):
        for index, found in enumerate(_planes(levels(band.around), format)):
            planes[index][_of_plane(band.rows, format, index)] = found[_of_plane(band.inside, format, index)]
    for plane in planes:
        plane.flags.writeable = False
    return tuple(planes)


def _to_rgb(format: VideoFormat) -> npt.NDArray[Any]:
    """[3, 3]: R', G' and B' of Y', 0..1, and Cb and Cr, -0.5..0.5 (H.273, equations 38 to 40)."""
    kr, kb = _WEIGHTS[matrix_of(format)]
    kg = 1 - kr - kb
    red, blue = 2 * (1 - kr), 2 * (1 - kb)
    return np.array([[1, 0, red], [1, -blue * kb / kg, -red * kr / kg], [1, blue, 0]])


def _multiplied(levels: Floats, matrix: npt.NDArray[Any]) -> Floats:
    import cv2

    return np.asarray(cv2.transform(levels, matrix.astype(np.float32)), np.float32)


def _span(format: VideoFormat, plane: int) -> tuple[float, float]:
    """How many codes make 1, and the code of 0, of a plane (H.273, equations 20 to 31)."""
    bits = format.layout.bits
    if range_of(format.color) == FULL:
        return (1 << bits) - 1, 1 << (bits - 1) if plane else 0
    return (224 if plane else 219) << (bits - 8), (128 if plane else 16) << (bits - 8)


def _levels(planes: Sequence[Plane], format: VideoFormat) -> Floats:
    """Y', 0..1, Cb and Cr, -0.5..0.5, at every luma sample: [height, width, 3]."""
    import cv2

    height, width = planes[0].shape
    levels = []
    for index, plane in enumerate(planes):
        unit, zero = _span(format, index)
        level = (plane.astype(np.float32) - np.float32(zero)) * np.float32(1 / unit)
        if level.shape != (height, width):
            step = np.array([1 << format.layout.log2_chroma_w, 1 << format.layout.log2_chroma_h])
            place = np.where(step > 1, siting_of(format.color), 0) / step
            there = np.array([[1 / step[0], 0, -place[0]], [0, 1 / step[1], -place[1]]])  # luma's to chroma's places
            how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            level = np.asarray(
                cv2.warpAffine(level, there, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32
            )
        levels.append(level)
    return np.asarray(cv2.merge(levels), np.float32)


def _planes(levels: Floats, format: VideoFormat) -> Iterator[Plane]:
    import cv2

    layout = format.layout
    for index, level in enumerate(cv2.split(levels)):
        unit, zero = _span(format, index)
        if index and (layout.log2_chroma_w or layout.log2_chroma_h):
            x, y = siting_of(format.color)
            horizontal, vertical = _average(layout.log2_chroma_w, x), _average(layout.log2_chroma_h, y)
            level = cv2.sepFilter2D(level, -1, horizontal, vertical, borderType=cv2.BORDER_REPLICATE)
            level = level[:: 1 << layout.log2_chroma_h, :: 1 << layout.log2_chroma_w]
        yield _codes(np.asarray(level, np.float32), unit, zero, layout.bits)


def _average(log2_subsampling: int, siting: float) -> Floats:
    """Weights of five samples about the first luma sample of a block: what a chroma sample at `siting` stands for."""
    if not log2_subsampling:
        return np.array([0, 0, 1, 0, 0], np.float32)
    weights = {0.0: [0, 1, 2, 1, 0], 0.5: [0, 0, 2, 2, 0], 1.0: [0, 0, 1, 2, 1]}[siting]
    return np.array(weights, np.float32) / np.float32(4)


def _codes(levels: Floats, unit: float, zero: float, bits: int) -> npt.NDArray[Any]:
    codes = np.rint(levels * np.float32(unit) + np.float32(zero))
    return np.asarray(np.clip(codes, 0, (1 << bits) - 1), _dtype(bits))


def _dtype(bits: int) -> type[np.uint8 | np.uint16]:
    return np.uint8 if bits == 8 else np.uint16
