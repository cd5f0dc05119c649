"""Pictures as they are to be seen: turned by their rotation, in square pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamer.frame import Frame, Plane, VideoFormat

_DEPTHS_440 = (8, 10, 12)
"""FFmpeg has 4:4:0, which 4:2:2 becomes by a quarter turn, in these depths only."""


def displayed_size(format: VideoFormat) -> tuple[int, int]:
    """The size in square pixels, turned as it is to be seen."""
    width = round(format.width * format.sar) if format.sar else format.width
    return (format.height, width) if format.rotation % 180 else (width, format.height)


def upright(frame: Frame) -> tuple[tuple[Plane, ...], VideoFormat]:
    """The planes turned as they are to be seen, and their format; 4:2:2 of 9, 14 or 16 bits may change its depth."""
    format, turns = frame.format, frame.format.rotation // 90 % 4
    if not turns:
        return frame.planes, format
    planes = tuple(np.rot90(plane, turns) for plane in frame.planes)
    if turns % 2 == 0:
        return planes, replace(format, rotation=0)
    pix_fmt, bits = format.pix_fmt, format.layout.bits
    if "440" in pix_fmt:
        pix_fmt = pix_fmt.replace("440", "422")
    elif "422" in pix_fmt and bits in _DEPTHS_440:
        pix_fmt = pix_fmt.replace("422", "440")
    elif "422" in pix_fmt:
        depth = next((depth for depth in _DEPTHS_440 if depth > bits), _DEPTHS_440[-1])
        pix_fmt = f"yuv440p{depth}le"
        planes = tuple(plane << depth - bits if depth > bits else plane >> bits - depth for plane in planes)
    return planes, replace(format, width=format.height, height=format.width, pix_fmt=pix_fmt, rotation=0)
