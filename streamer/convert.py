"""Between PyAV's frames and ours: planes, formats, colour tags and HDR metadata."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from streamer import ycbcr
from streamer.color import BT601, BT709, RGB, matrix_of, range_of
from streamer.frame import (
    FULL,
    LIMITED,
    ColorSpec,
    Mastering,
    PixelLayout,
    Plane,
    VideoFormat,
    layout_of,
    without_range,
)

_SWS_BICUBIC, _SWS_FULL_CHROMA, _SWS_ACCURATE = 4, 0x2000 | 0x4000, 0x40000
EXACT = _SWS_BICUBIC | _SWS_FULL_CHROMA | _SWS_ACCURATE
"""libswscale flags: bicubic, chroma interpolated in full (in and out), rounding exact."""

_SWS_MATRIX = {RGB: None, BT601: 5}
"""Where libswscale's numbers for matrices are not those of H.273."""

TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Arguments of `av.open` that let tags in a wrong encoding pass; PyAV 19 always does."""

_CODEC_LINE = re.compile(r"Video: .*?, (?P<pix_fmt>\w+)\((?P<details>[^)]*)\)")
_LOCATIONS = {"left", "center", "topleft", "top", "bottomleft", "bottom"}
_dump_lock = threading.Lock()


@cache
def planar_equivalent(pix_fmt: str) -> str:
    """The planar YUV or gray format that holds `pix_fmt` with the least loss (itself, if it is one).

    Semi-planar and packed YUV are rearranged losslessly, RGB becomes 4:4:4, alpha is left behind.
    """
    name = without_range(pix_fmt)
    if layout_of(name) is not None:
        return name
    source = av.VideoFormat(pix_fmt, 16, 16)
    bits = 8 if source.has_palette else max(part.bits for part in source.components)
    depth = "" if bits <= 8 else f"{min(size for size in (9, 10, 12, 14, 16) if size >= min(bits, 16))}le"
    colors = len(source.components) - has_alpha(pix_fmt)
    if colors == 1 and not source.has_palette:
        return "gray" + depth
    if source.is_rgb or source.has_palette:
        return "yuv444p" + depth
    if source.chroma_height(16) < 16:
        return "yuv420p" + depth
    return ("yuv444p" if source.chroma_width(16) == 16 else "yuv422p") + depth


@cache
def has_alpha(pix_fmt: str) -> bool:
    """Whether `pix_fmt` has an alpha channel (palettes, which may hold one, don't count)."""
    return any(part.is_alpha for part in av.VideoFormat(pix_fmt, 16, 16).components)


def planes_of(picture: av.VideoFrame, layout: PixelLayout) -> tuple[Plane, ...]:
    """Read-only views of the planes of `picture`, without a copy; they keep its memory alive."""
    shapes = layout.shapes(picture.width, picture.height)
    planes = []
    for plane, (height, width) in zip(picture.planes[: layout.planes], shapes, strict=True):
        samples = _samples(plane, layout.dtype)[:height, :width]
        samples.flags.writeable = False
        planes.append(samples)
    return tuple(planes)


def fill_picture(picture: av.VideoFrame, planes: Sequence[Plane]) -> None:
    """Copies `planes` into `picture`, whose planes may be larger (padding): the last sample is repeated."""
    for target, samples in zip(picture.planes, planes, strict=True):
        height, width = samples.shape
        whole = _samples(target, samples.dtype)
        whole[:height, :width] = samples
        if target.width > width:
            whole[:height, width : target.width] = samples[:, -1:]
        whole[height : target.height] = whole[height - 1]


def _samples(plane: Any, dtype: np.dtype[Any]) -> Plane:
    """The memory of a PyAV plane as [rows, stride], padding included."""
    stride = plane.line_size // dtype.itemsize
    rows = plane.buffer_size // plane.line_size
    return np.frombuffer(plane, dtype, count=rows * stride).reshape(rows, stride)


def set_color(target: Any, color: ColorSpec) -> None:
    """Tags a PyAV frame or codec context."""
    target.color_range = color.range
    target.colorspace = color.matrix
    target.color_primaries = color.primaries
    target.color_trc = color.transfer


def picture_color(picture: av.VideoFrame, chroma_location: str) -> ColorSpec:
    """The colour tags of a decoded picture; a `yuvj` format means full range."""
    full = picture.format.name.startswith("yuvj")
    return ColorSpec(
        int(picture.color_primaries),
        int(picture.color_trc),
        int(picture.colorspace),
        FULL if full else int(picture.color_range),
        chroma_location,
    )


def rgb_as_yuv(color: ColorSpec, *, still: bool) -> ColorSpec:
    """The colour that RGB pictures take as YUV: BT.709, full range for stills (finer steps), limited for video."""
    return replace(color, matrix=BT709, range=FULL if still else LIMITED, chroma_location="unspecified")


def to_planar(picture: av.VideoFrame, target: VideoFormat) -> av.VideoFrame:
    """`picture`, as decoded, in the size, pixel format, matrix and range of `target`."""
    color = picture_color(picture, "unspecified")
    if picture.format.is_rgb or picture.format.has_palette:
        color = replace(color, matrix=RGB, range=FULL)
    return reformatted(picture, VideoFormat(picture.width, picture.height, picture.format.name, color), target)


def converted_planes(picture: av.VideoFrame, target: VideoFormat) -> tuple[Plane, ...]:
    """The planes of `picture` in the size, pixel format, matrix and range of `target`; read-only."""
    same_size = (picture.width, picture.height) == (target.width, target.height)
    if (picture.format.is_rgb or picture.format.has_palette) and same_size and ycbcr.knows(target):
        deep = not picture.format.has_palette and max(part.bits for part in picture.format.components) > 8
        rgb = picture.reformat(format="rgb48le" if deep else "rgb24").to_ndarray()
        return ycbcr.from_rgb(rgb, target, 16 if deep else 8)
    return planes_of(to_planar(picture, target), target.layout)


def reformatted(picture: av.VideoFrame, source: VideoFormat, target: VideoFormat) -> av.VideoFrame:
    """`picture`, which is of format `source`, as `target`: size, pixel format, matrix and range, through libswscale."""
    matrices = matrix_of(source), matrix_of(target)
    if RGB not in matrices and not ycbcr.same_matrix(source, target):
        # From one YUV matrix to another libswscale only copies; through RGB it converts.
        middle = replace(target, pix_fmt="rgb48le", color=replace(target.color, matrix=RGB, range=FULL))
        return reformatted(reformatted(picture, source, middle), middle, target)
    return picture.reformat(
        width=target.width,
        height=target.height,
        format=target.pix_fmt,
        src_colorspace=_SWS_MATRIX.get(matrices[0], matrices[0]),
        dst_colorspace=_SWS_MATRIX.get(matrices[1], matrices[1]),
        src_color_range=range_of(source.color),
        dst_color_range=range_of(target.color),
        interpolation=EXACT,
    )


def rgb_of(planes: Sequence[Plane], format: VideoFormat, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A picture of `format` as uint8 RGB [height, width, 3] in full range, by its own matrix and range."""
    picture = av.VideoFrame(format.width, format.height, format.pix_fmt)
    fill_picture(picture, planes)
    set_color(picture, format.color)
    rgb = reformatted(picture, format, VideoFormat(width, height, "rgb24", ColorSpec(matrix=RGB, range=FULL)))
    return np.ascontiguousarray(rgb.to_ndarray(), np.uint8)


def chroma_location(container: Any, index: int) -> str:
    """The chroma siting of stream `index` of an open container, "unspecified" if it isn't signalled.

    PyAV has no attribute for it; FFmpeg names it in its verbose description of the container.
    """
    with _dump_lock:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_libav_level(av.logging.VERBOSE)
        try:
            description = container.dumps_format()
        finally:
            av.logging.set_level(level)
            av.logging.set_libav_level(av.logging.WARNING if level is None else level)
    for line in description.splitlines():
        if re.match(rf"\s*Stream #0:{index}\b", line):
            match = _CODEC_LINE.search(line)
            details = set(match["details"].split(", ")) if match else set()
            return next(iter(details & _LOCATIONS), "unspecified")
    return "unspecified"


def side_data(picture: av.VideoFrame) -> dict[str, bytes]:
    """The side data of a picture by FFmpeg's name of its type."""
    try:
        items: Any = picture.side_data
    except ValueError:
        return {}  # a type that PyAV doesn't know yet, such as EXIF in 18
    # By number: iteration gives items in PyAV 18 and their types in 19.
    found = [items[index] for index in range(len(items))]
    return {item.type.name: bytes(item) for item in found}


def mastering_of(picture: av.VideoFrame) -> Mastering | None:
    """The HDR metadata of a picture's side data (FFmpeg's AVMasteringDisplayMetadata and AVContentLightMetadata)."""
    found = side_data(picture)
    display, light = found.get("MASTERING_DISPLAY_METADATA"), found.get("CONTENT_LIGHT_LEVEL")
    if display is None and light is None:
        return None
    primaries, luminance = _mastering_display(display) if display else (None, None)
    max_cll, max_fall = struct.unpack_from("=II", light) if light else (None, None)
    return Mastering(primaries, luminance, max_cll, max_fall)


def _mastering_display(data: bytes) -> tuple[Any, Any]:
    numbers = struct.unpack_from("=22i", data)
    values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    primaries = tuple((values[k], values[k + 1]) for k in range(0, 8, 2))
    has_primaries, has_luminance = numbers[20:22]
    return (primaries if has_primaries else None), ((values[8], values[9]) if has_luminance else None)
