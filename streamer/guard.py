"""A guard against pictures that a GPU spoilt: black, of one colour, shifted or torn.

In float16 a value can overflow on a rare picture, and what follows is not a number: black in the end. A wrong driver or
a broken card gives anything. None of that raises an error, so every frame is looked at.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.color import ChromaScaler
from streamer.frame import ColorSpec, PixelLayout, Plane

log = logging.getLogger(__name__)

TOLERANCE, PER_CONTRAST = 14.0, 0.6
"""8-bit code values by which a block's mean may be off, and how much more for each one of its standard deviation.

Networks sharpen and smooth, and what they make of fine, hard patterns is lighter or darker than these are: a
checkerboard of single pixels moves by 32 at strength 1.5. Video's black, 16, is too far from 0 without contrast."""
SHARE = 1 / 8
"""Of the blocks that may be off by more."""
HITS, WINDOW = 3, 100
"""So many damaged frames among so many, and the engine is not to be trusted any more."""

_ROWS, _COLUMNS = 8, 12
_HEIGHT, _WIDTH = 4, 8
"""Of a block, in pixels of the input."""


class Guard:
    """Compares luma that a network enlarged with its input, and puts the interpolation in the place of a damaged one.

    The means of 96 blocks, spread evenly, are compared with those of the same places in the input. That takes 0.05 ms
    for 1280x720 to 2560x1440 on one core (Zen 4), because only 3,072 and 12,288 samples are read. The interpolation is
    the one that the networks correct, so it equals strength 0 but for rounding (2 codes). It is computed here and needs
    no second engine, which could fail, too. For one thread.
    """

    def __init__(self, bits: int, scale: int) -> None:
        """Store what the frames are like: `bits` a sample, and `scale` times wider and higher after the network."""
        self.replaced = 0
        """Frames, ever."""
        self._bits, self._scale = bits, scale
        self._scaler = ChromaScaler(PixelLayout(bits, planes=1), ColorSpec(), scale)
        self.reset()

    def reset(self) -> None:
        """Another engine: what the last one did is forgotten, apart from the count."""
        self._frames = 0
        self._hits: deque[int] = deque(maxlen=HITS)

    def inspect(self, luma: Plane, enhanced: Plane) -> bool:
        """Look at one frame, and repair it where it lies.

        Args:
            luma: the network's input [h, w], uint8 or uint16.
            enhanced: what came of it [scale·h, scale·w], the same type.

        Returns:
            Whether this is the HITS-th damaged frame of the last WINDOW ones.
        """
        self._frames += 1
        if not is_damaged(luma, enhanced, self._scale, self._bits):
            return False
        if not self.replaced:
            log.warning("the engine gave a damaged picture: it is interpolated instead, as others will be")
        self.replaced += 1
        self._scaler.resample(luma, enhanced)
        self._hits.append(self._frames)
        return len(self._hits) == HITS and self._hits[-1] - self._hits[0] < WINDOW


def is_damaged(luma: Plane, enhanced: Plane, scale: int, bits: int = 8) -> bool:
    """Whether more than SHARE of the blocks of `enhanced` are too dark or too light for those of `luma`."""
    before, after = _blocks(luma.shape, 1), _blocks(luma.shape, scale)
    pixels = before.cut(luma)
    means = before.means(pixels)
    variance = before.means(np.square(pixels)) - np.square(means)
    tolerance = TOLERANCE * (1 << (bits - 8)) + PER_CONTRAST * np.sqrt(np.maximum(variance, 0))
    off = np.abs(after.means(after.cut(enhanced)) - means) > tolerance
    return bool(np.count_nonzero(off) > SHARE * off.size)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Where the blocks lie, and the two matrices that average them."""

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    down: npt.NDArray[np.float32]
    across: npt.NDArray[np.float32]

    def cut(self, plane: Plane) -> npt.NDArray[np.float32]:
        """All blocks side by side, in float32."""
        cut: npt.NDArray[np.float32] = plane.take(self.rows, 0).take(self.columns, 1).astype(np.float32)
        return cut

    def means(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """float32 [_ROWS, _COLUMNS]."""
        return self.down @ pixels @ self.across


@cache
def _blocks(shape: tuple[int, int], scale: int) -> _Blocks:
    """Of a plane `scale` times as large as `shape`: the same places for every scale."""
    rows, down = _axis(shape[0], _ROWS, min(_HEIGHT, shape[0]), scale)
    columns, across = _axis(shape[1], _COLUMNS, min(_WIDTH, shape[1]), scale)
    return _Blocks(rows, columns, down, across.T.copy())


def _axis(length: int, count: int, size: int, scale: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    starts = np.linspace(0, length - size, count).astype(np.intp) * scale
    places = (starts[:, None] + np.arange(size * scale, dtype=np.intp)).ravel()
    average = np.repeat(np.eye(count), size * scale, axis=1) / (size * scale)
    return places, average.astype(np.float32)
