"""One plane's stabilised history, and how a frame blends with it. For one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from streamer.motion import moved, resized

if TYPE_CHECKING:
    from streamer.frame import Plane
    from streamer.motion import Flow

    Map = npt.NDArray[np.float32]

_STEPS = 64
"""Of an 8-bit code: finer than whole codes, in which an average gets stuck; 255 of them fit 16 bits."""
_ALL = 32767
"""The share of history that is 1, in 16 bits."""


class History(Protocol):
    """Holds what a plane looked like so far."""

    @property
    def nbytes(self) -> int:
        """Memory of the state."""

    def follow(self, flow: Flow) -> None:
        """Moves the history along a flow, which may be of another size."""

    def blend(self, plane: Plane, keep: Map, block: tuple[int, int], limit: float, into: Plane) -> None:
        """Takes the next frame's plane [h, w], and gives the stabilised one.

        Args:
            plane: new samples.
            keep: history's share in every cell, 0 to 1.
            block: width and height of a cell in px of the plane; all of them cover it.
            limit: how far history may pull, in 8-bit codes.
            into: what to fill.
        """


def history_of(shape: tuple[int, int], bits: int) -> History:
    """An empty history of planes of this shape (height, width)."""
    return _FixedHistory(shape) if bits == 8 else _FloatHistory(shape, bits)


class _FixedHistory:
    """For 8 bits, in 64ths of a code: 16-bit integers take two thirds of the time that float32 takes."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._values, self._new, self._pull = (np.zeros(shape, np.int16) for _ in range(3))
        self._keep = np.zeros((0, 0), np.int16)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def follow(self, flow: Flow) -> None:
        # None is negative, and OpenCV is slow with signed ones.
        positive = moved(self._values.view(np.uint16), resized(flow, self._values.shape))
        self._values = positive.view(np.int16)

    def blend(self, plane: Plane, keep: Map, block: tuple[int, int], limit: float, into: Plane) -> None:
        height, width = plane.shape
        self._keep = _spread((keep * np.float32(_ALL)).astype(np.int16), block, self._keep)
        most = np.int16(min(limit * _STEPS, _ALL))
        np.multiply(plane, np.int16(_STEPS), out=self._new)
        cv2.subtract(self._values, self._new, self._pull)
        cv2.multiply(self._pull, self._keep[:height, :width], self._pull, 1 / _ALL)
        np.clip(self._pull, -most, most, out=self._pull)
        cv2.add(self._new, self._pull, self._values)
        cv2.convertScaleAbs(self._values, into, 1 / _STEPS)


class _FloatHistory:
    """For deeper samples."""

    def __init__(self, shape: tuple[int, int], bits: int) -> None:
        self._values, self._pull = (np.zeros(shape, np.float32) for _ in range(2))
        self._keep = np.zeros((0, 0), np.float32)
        self._codes = 2.0 ** (bits - 8)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def follow(self, flow: Flow) -> None:
        self._values = np.asarray(moved(self._values, resized(flow, self._values.shape)), np.float32)

    def blend(self, plane: Plane, keep: Map, block: tuple[int, int], limit: float, into: Plane) -> None:
        height, width = plane.shape
        self._keep = _spread(keep, block, self._keep)
        most = limit * self._codes
        np.subtract(self._values, plane, out=self._pull)
        np.multiply(self._pull, self._keep[:height, :width], out=self._pull)
        np.clip(self._pull, -most, most, out=self._pull)
        np.add(plane, self._pull, out=self._values)
        np.copyto(into, np.rint(self._values, out=self._pull), casting="unsafe")


def _spread(cells: npt.NDArray[Any], block: tuple[int, int], into: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cells enlarged to `block` px each, without steps; in the memory of `into` if its size is right."""
    size = (cells.shape[1] * block[0], cells.shape[0] * block[1])
    if into.shape != size[::-1]:
        into = np.zeros(size[::-1], cells.dtype)
    cv2.resize(cells, size, into, interpolation=cv2.INTER_LINEAR)
    return into
