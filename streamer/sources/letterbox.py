"""Pictures of another size, scaled and padded with black to the size that a stream has once and for all."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av

from streamer.color import range_of
from streamer.convert import converted_planes
from streamer.frame import FULL, Plane, VideoFormat
from streamer.pool import PlanePool


class Letterbox:
    """Makes pictures of any size fit one format; the shape of what they show stays. For one thread."""

    def __init__(self, format: VideoFormat) -> None:
        self._format = format
        self._pool = PlanePool()

    def planes(self, picture: av.VideoFrame) -> tuple[Plane, ...]:
        """The planes of `picture` in the middle of a black picture of the format; read-only."""
        format = self._format
        width, height = _inner_size(picture.width, picture.height, format)
        inner = converted_planes(picture, replace(format, width=width, height=height))
        planes = self._pool.planes(format.layout, format.width, format.height)
        left, top = (format.width - width) // 4 * 2, (format.height - height) // 4 * 2
        for number, (target, samples, code) in enumerate(zip(planes, inner, black(format), strict=True)):
            x, y = (left >> format.layout.log2_chroma_w, top >> format.layout.log2_chroma_h) if number else (left, top)
            target[...] = code
            target[y : y + samples.shape[0], x : x + samples.shape[1]] = samples
            target.flags.writeable = False
        return planes


def black(format: VideoFormat) -> tuple[int, ...]:
    """The code of black in each plane."""
    layout = format.layout
    luma = 0 if range_of(format.color) == FULL else 16 << (layout.bits - 8)
    return (luma, *(1 << (layout.bits - 1),) * (layout.planes - 1))


def _inner_size(width: int, height: int, format: VideoFormat) -> tuple[int, int]:
    """The largest even size inside the format with the shape of `width` x `height` (pixels are taken to be square)."""
    scale = min(Fraction(format.width, width), Fraction(format.height, height))
    inner_w, inner_h = int(width * scale), int(height * scale)
    # Odd sides only where they are the format's own: chroma would otherwise lie half a sample off.
    if inner_w != format.width:
        inner_w = max(2, inner_w & ~1)
    if inner_h != format.height:
        inner_h = max(2, inner_h & ~1)
    return min(inner_w, format.width), min(inner_h, format.height)
