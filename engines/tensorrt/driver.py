"""The NVIDIA driver itself, by ctypes: is it there, which GPUs has it, and the few calls that pycuda lacks."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

_NO_DEVICE, _STUB = 100, 34
_NAME_LENGTH = 256


class DriverError(Exception):
    """There is no usable driver or GPU; the message says why and what to do, for a person."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says of itself."""

    cuda: str
    """The newest CUDA that it supports, such as "13.0"."""
    devices: tuple[str, ...]
    """The GPUs' names, in the order of their numbers; at least one."""


def find_driver() -> Driver:
    """Ask the driver for its GPUs. Makes no context, so it takes no memory on any of them.

    Raises:
        DriverError: no driver, no GPU, or a library that is no driver.
    """
    library = _library()
    failed = library.cuInit(0)
    if failed == _NO_DEVICE:
        raise DriverError("there is an NVIDIA driver, but no GPU that it can use; check nvidia-smi")
    if failed == _STUB:
        raise DriverError(
            "libcuda.so.1 is the CUDA toolkit's stub, not a driver; take its folder out of LD_LIBRARY_PATH"
        )
    if failed:
        raise DriverError(f"the NVIDIA driver does not start (CUDA error {failed}); check nvidia-smi, or restart")
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    major, minor = divmod(version.value // 10, 100)
    return Driver(f"{major}.{minor}", tuple(_name(library, number) for number in range(count.value)))


def page_lock(address: int, size: int) -> None:
    """Let the GPU copy to and from this memory directly; whole pages, in the current context.

    Done here because pycuda 2026.1's `register_host_memory` gives back an array that is already freed.

    Raises:
        MemoryError: the system won't lock that much.
    """
    failed = _library().cuMemHostRegister_v2(ctypes.c_void_p(address), ctypes.c_size_t(size), 0)
    if failed:
        raise MemoryError(f"cannot lock {size} bytes of memory for the GPU (CUDA error {failed})")


def page_unlock(address: int) -> None:
    """Undo `page_lock`; the memory stays, and nothing may be in flight to or from it."""
    _library().cuMemHostUnregister(ctypes.c_void_p(address))


def pop_context() -> None:
    """Take the top context off this thread's stack in the driver.

    pycuda pushes a context before it releases it, and counts on the release to pop it again, which is true of its own
    contexts but not of a device's primary one.
    """
    _library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@cache
def _loaded(name: str) -> Any:
    return ctypes.CDLL(name)


def _library() -> Any:
    try:
        return _loaded("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        raise DriverError("no NVIDIA driver was found; install it, or use another engine") from None


def _name(library: Any, number: int) -> str:
    device, text = ctypes.c_int(), ctypes.create_string_buffer(_NAME_LENGTH)
    library.cuDeviceGet(ctypes.byref(device), number)
    library.cuDeviceGetName(text, _NAME_LENGTH, device)
    return text.value.decode(errors="replace")
