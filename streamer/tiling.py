"""Cutting a large frame into tiles that overlap by what the network sees, so that no seam can show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from streamer.frame import Plane


@dataclass(frozen=True, slots=True)
class Span:
    """One tile along one axis, in source pixels: read from `start` to `stop`, keep from `keep_start` to `keep_stop`."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a frame; all tiles of a plan read the same number of pixels."""

    rows: Span
    columns: Span


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How a `width` x `height` luma plane is fed to an engine of `tile_width` x `tile_height`.

    One tile covers the frame where the limit allows it. A tile larger than the frame (network sizes must be multiples
    of something) is padded by repeating the last row and column.
    """

    tile_width: int
    tile_height: int
    tiles: tuple[Tile, ...]

    def cut(self, luma: Plane, tile: Tile) -> Plane:
        """The tile's pixels [tile_height, tile_width] of `luma`: a view, or a padded copy at the frame's end."""
        part = luma[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
        missing = (self.tile_height - part.shape[0], self.tile_width - part.shape[1])
        return np.pad(part, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else part

    def paste(self, enhanced: Plane, tile: Tile, scale: int, into: Plane) -> None:
        """Copies the part of an enhanced tile [scale·tile_height, scale·tile_width] that is free of edge effects."""
        rows, columns = tile.rows, tile.columns
        into[
            rows.keep_start * scale : rows.keep_stop * scale, columns.keep_start * scale : columns.keep_stop * scale
        ] = enhanced[
            (rows.keep_start - rows.start) * scale : (rows.keep_stop - rows.start) * scale,
            (columns.keep_start - columns.start) * scale : (columns.keep_stop - columns.start) * scale,
        ]


@cache
def plan_tiles(width: int, height: int, *, halo: int, multiple_of: int, max_px: int) -> TilePlan:
    """The fewest equal tiles of at most about `max_px` pixels, whose overlaps leave `halo` pixels around what is kept.

    The last tile of an axis is shifted back instead of padded, so every tile sees real pixels. Tiling is exact: the
    network's output at a kept pixel depends on nothing beyond the halo.
    """
    columns = rows = 1
    while _size(width, columns, halo, multiple_of) * _size(height, rows, halo, multiple_of) > max_px:
        if _size(width, columns, halo, multiple_of) >= _size(height, rows, halo, multiple_of):
            columns += 1
        else:
            rows += 1
        if max(columns, rows) > 1024:
            raise ValueError(f"a halo of {halo} px leaves nothing of tiles of {max_px} pixels")
    tile_width = _size(width, columns, halo, multiple_of)
    tile_height = _size(height, rows, halo, multiple_of)
    return TilePlan(
        tile_width,
        tile_height,
        tuple(
            Tile(row, column)
            for row in _spans(height, rows, tile_height, halo, multiple_of)
            for column in _spans(width, columns, tile_width, halo, multiple_of)
        ),
    )


def _size(length: int, count: int, halo: int, multiple_of: int) -> int:
    kept = -(-length // count)
    read = length if count == 1 else min(length, kept + (halo if count == 2 else 2 * halo) + multiple_of - 1)
    return -(-read // multiple_of) * multiple_of


def _spans(length: int, count: int, size: int, halo: int, multiple_of: int) -> list[Span]:
    kept = -(-length // count)
    spans = []
    for keep_start in range(0, length, kept):
        keep_stop = min(length, keep_start + kept)
        # A network that unshuffles sees the frame in blocks: tiles must start on the same grid as the frame.
        centred = max(0, keep_start - halo) // multiple_of * multiple_of
        shifted_back = max(0, -(-(length - size) // multiple_of) * multiple_of)
        start = min(centred, shifted_back)
        spans.append(Span(start, min(length, start + size), keep_start, keep_stop))
    return spans
