"""A clock burnt into pictures, so that whoever sees one knows how old it is, whatever it went through.

Two rows of cells at the top: black and white are the bits of a time, most significant first, and below them their
opposites, by which a reader notices that it read something else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamer.frame import Plane

BITS = 24
UNIT_NS = 100_000
"""The clock's unit: it starts over after 28 minutes."""
CELL_SHARE = 1 / 20
"""Height of a cell in the height of the picture."""
_BLACK, _WHITE = 16, 235


def burn(luma: Plane, now_ns: int) -> None:
    """Writes a time of the monotonic clock into an 8-bit plane [height, width], in place."""
    bits = _bits(now_ns)
    for row, values in enumerate((bits, ~bits)):
        for column, value in enumerate(values):
            luma[_cell(luma, row, column)] = _WHITE if value else _BLACK


def age_ns(luma: Plane, now_ns: int) -> int | None:
    """How long before `now_ns` a picture of any size was burnt; None if there is no clock in it."""
    levels = np.array(
        [[luma[_cell(luma, row, column, inner=True)].mean() for column in range(BITS)] for row in range(2)]
    )
    bits = levels[0] > levels[1]
    if np.abs(levels[0] - levels[1]).min() < (_WHITE - _BLACK) / 2:
        return None
    burnt = int("".join("1" if bit else "0" for bit in bits), 2)
    return ((now_ns // UNIT_NS - burnt) % (1 << BITS)) * UNIT_NS


def _bits(now_ns: int) -> npt.NDArray[np.bool_]:
    units = now_ns // UNIT_NS % (1 << BITS)
    return np.array([bit == "1" for bit in f"{units:0{BITS}b}"])


def _cell(luma: Plane, row: int, column: int, *, inner: bool = False) -> tuple[slice, slice]:
    """Where a cell lies; its inner half is free of the neighbours' blur."""
    height, width = luma.shape
    cell_height, cell_width = height * CELL_SHARE, width / BITS
    margin = 0.25 if inner else 0.0
    return (
        slice(round((row + margin) * cell_height), round((row + 1 - margin) * cell_height)),
        slice(round((column + margin) * cell_width), round((column + 1 - margin) * cell_width)),
    )
