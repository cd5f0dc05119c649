"""CUDA through pycuda: the device's primary context, streams, events, and memory on both sides.

Everything here must be made, used and released on one thread, inside `with gpu.current():`.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Array, EngineError
from .driver import DriverError, find_driver, page_lock, page_unlock, pop_context

if TYPE_CHECKING:
    from collections.abc import Iterator

_PCI_ALIGNMENT = mmap.PAGESIZE


def pycuda_driver() -> Any:
    """The module pycuda.driver, which loads the NVIDIA driver and starts nothing.

    Raises:
        EngineError: not installed, no driver, or both don't fit.
    """
    try:
        find_driver()
        return importlib.import_module("pycuda.driver")
    except (DriverError, ImportError) as error:
        raise EngineError(f"cannot use the GPU: {error}; streamer doctor says what is missing") from error


def gpu_device(number: int) -> Any:
    """pycuda's device with this number, which may be asked what it is without a context.

    Raises:
        EngineError: no pycuda or driver, or no such device.
    """
    pycuda = pycuda_driver()
    pycuda.init()
    count = pycuda.Device.count()
    if not 0 <= number < count:
        raise EngineError(f"there is no GPU {number}: use 0{f' to {count - 1}' if count > 1 else ''}")
    return pycuda.Device(number)


class Gpu:
    """One device's primary context, which TensorRT, ONNX Runtime and torch share.

    It is pushed for each piece of work and popped after it, because the caller's thread may also serve another device
    or another library: with the wrong device current, TensorRT gives stale pictures without an error.
    """

    def __init__(self, number: int) -> None:
        """Retain the context of the device with this number.

        Raises:
            EngineError: no pycuda or driver, or no such device.
        """
        self.pycuda = pycuda_driver()
        self.device = gpu_device(number)
        self._context: Any = self.device.retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on this thread."""
        self._context.push()
        try:
            yield
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # what they hold can be freed in the context only
            raise
        finally:
            self.pycuda.Context.pop()

    def release(self) -> None:
        """Give the context back; everything made in it must be gone. Twice is harmless."""
        if self._context is not None:
            context, self._context = self._context, None
            context.detach()
            pop_context()

    def stream(self) -> Any:
        """A stream that doesn't wait for the legacy one, nor the legacy one for it."""
        return self.pycuda.Stream(1)

    def event(self, *, waited_for: bool = False) -> Any:
        """An event for ordering only; without a time it costs less.

        One that the host waits for lets the thread sleep: spinning would take a core from decoder and encoder.
        """
        flags = self.pycuda.event_flags
        return self.pycuda.Event(flags.DISABLE_TIMING | (flags.BLOCKING_SYNC if waited_for else 0))

    def device_memory(self, size: int) -> Any:
        """`size` bytes on the device; `int()` of it is the address, `free()` gives it back."""
        return self.pycuda.mem_alloc(size)

    def upload_memory(self, size: int) -> Array:
        """uint8 `[size]`, page-locked and write-combined: only ever write to it, as reading is very slow."""
        flags = self.pycuda.host_alloc_flags.WRITECOMBINED
        block: Array = self.pycuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
        return block

    def free_upload_memory(self, block: Array) -> None:
        """Give back what `upload_memory` gave; views of it must not be used any more."""
        base: Any = block.base
        base.free()

    def free_bytes(self) -> int:
        """Of the device's memory."""
        free, _ = self.pycuda.mem_get_info()
        return int(free)


class DownloadMemory:
    """Page-locked memory that the CPU reads.

    It is the process's own, locked for as long as the engine is open. Views of it that somebody keeps beyond that show
    old pixels, where memory of the driver's would be gone from under them.
    """

    def __init__(self, size: int) -> None:
        """Raises MemoryError if the system won't lock that much."""
        whole = -(-size // _PCI_ALIGNMENT) * _PCI_ALIGNMENT
        self.block: Array = np.frombuffer(mmap.mmap(-1, whole), np.uint8)[:size]
        """uint8 `[size]`."""
        self._address = int(self.block.ctypes.data)
        page_lock(self._address, whole)
        self._locked = True

    def release(self) -> None:
        """Unlock it; nothing may be in flight to it. Twice is harmless."""
        if self._locked:
            self._locked = False
            page_unlock(self._address)
