"""A pool of picture memory: planes are borrowed by making them and returned by forgetting them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.frame import PixelLayout, Plane

_CACHE_LINE = 64
_MAX_IDLE = 16
_Part = tuple[int, int, tuple[int, int]]
"""Start and stop in bytes, and (height, width)."""


class _Lease(np.ndarray[Any, Any]):
    """A borrowed block. NumPy keeps a view's base when the base is of another class, so a lease lives exactly as
    long as any plane cut from it, and its end is the signal that the memory is free."""


class PlanePool:
    """Hands out writable planes and takes their memory back when nobody refers to them any more.

    In the steady state nothing is allocated: a pipeline holds a bounded number of frames, so the same few blocks go
    round. A few idle blocks, all of one size, are kept. Any thread may allocate, and planes may die on any thread.
    """

    def __init__(self) -> None:
        self.allocated = 0
        self._nbytes = 0
        self._idle: deque[npt.NDArray[np.uint8]] = deque()
        self._lock = threading.Lock()

    def planes(self, layout: PixelLayout, width: int, height: int) -> tuple[Plane, ...]:
        """Uninitialised planes of a `width` x `height` picture, each C-contiguous [height, width]."""
        parts, nbytes = _partition(layout, width, height)
        lease = self._lease(nbytes)
        return tuple(
            lease[start:stop].view(np.ndarray).view(layout.dtype).reshape(shape) for start, stop, shape in parts
        )

    def _lease(self, nbytes: int) -> _Lease:
        with self._lock:
            if nbytes != self._nbytes:
                self._nbytes = nbytes
                self._idle.clear()
            block = self._idle.popleft() if self._idle else None
            if block is None:
                self.allocated += 1
        if block is None:
            block = np.empty(nbytes, np.uint8)
        lease = block.view(_Lease)
        # deque.append is atomic: the finaliser may run anywhere, even inside a call that holds the lock.
        weakref.finalize(lease, self._give_back, block).atexit = False
        return lease

    def _give_back(self, block: npt.NDArray[np.uint8]) -> None:
        if block.nbytes == self._nbytes and len(self._idle) < _MAX_IDLE:
            self._idle.append(block)


@cache
def _partition(layout: PixelLayout, width: int, height: int) -> tuple[tuple[_Part, ...], int]:
    """Where the planes of a picture lie in one block of memory, each on a new cache line, and the block's size."""
    parts, offset = [], 0
    for shape in layout.shapes(width, height):
        nbytes = shape[0] * shape[1] * layout.dtype.itemsize
        parts.append((offset, offset + nbytes, shape))
        offset += -(-nbytes // _CACHE_LINE) * _CACHE_LINE
    return tuple(parts), offset
