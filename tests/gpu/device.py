"""The simulated GPU: builds `simulator/*.cpp` into a libcuda.so.1, puts it under the real pycuda, and talks to it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOURCES = Path(__file__).parent / "simulator"
MEMORY = 8 << 30
LAZY, EAGER = 0, -1
SEEDS = (1, 2, 3)
DEVICE_MEMORY, PINNED_MEMORY = 0, 1
NOT_SUPPORTED = 801

_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class Unavailable(Exception):
    """The simulated GPU can't run here, and why."""


class _Access(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_size_t), ("size", ctypes.c_size_t), ("write", ctypes.c_int))


class SimulatedGpu:
    """One process has one, as it has one driver. Off, with no device to be seen, until `reset` gives it some."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._kernels: list[object] = []
        library.sim_violations.restype = library.sim_counts.restype = ctypes.c_char_p
        library.sim_live.restype = library.sim_streams.restype = ctypes.c_size_t

    def reset(self, *, devices: int = 1, memory: int = MEMORY, order: int = LAZY) -> None:
        """A machine without a past; `order` is LAZY, EAGER or the seed of a random order."""
        self._library.sim_reset(devices, ctypes.c_size_t(memory), order)
        self._kernels.clear()

    def set_order(self, order: int) -> None:
        self._library.sim_order(order)

    def fail(self, call: str, result: int, *, after: int = 0) -> None:
        """Lets one driver call, without its version suffix, fail once with a CUresult, after that many that work."""
        self._library.sim_fail(call.encode(), after, result)

    def violations(self) -> list[str]:
        """What was done wrong since the last time this was asked."""
        text: bytes = self._library.sim_violations()
        return text.decode().splitlines()

    def counts(self) -> dict[str, int]:
        """How often each driver call was made, and "bytes up" and "bytes down"."""
        text: bytes = self._library.sim_counts()
        return {name: int(count) for name, _, count in (line.partition("=") for line in text.decode().splitlines())}

    def clear_counts(self) -> None:
        self._library.sim_clear_counts()

    def live(self) -> dict[str, int]:
        """What has not been given back."""
        return {
            "device": int(self._library.sim_live(DEVICE_MEMORY)),
            "pinned": int(self._library.sim_live(PINNED_MEMORY)),
            "streams": int(self._library.sim_streams()),
            "contexts": int(self._library.sim_context_depth()),
        }

    def launch(
        self,
        stream: int,
        label: str,
        reads: Sequence[tuple[int, int]],
        writes: Sequence[tuple[int, int]],
        run: Callable[[], int],
    ) -> int:
        """Enqueue a kernel that touches the listed (address, size) ranges of device memory and nothing else."""
        listed = [_Access(*place, 0) for place in reads] + [_Access(*place, 1) for place in writes]
        kernel = _KERNEL(lambda _: run())
        self._kernels.append(kernel)  # a launched graph may call it again
        array = (_Access * len(listed))(*listed)
        place = ctypes.c_void_p(stream)
        return int(self._library.sim_launch(place, label.encode(), array, ctypes.c_size_t(len(listed)), kernel, None))

    def capturing(self, stream: int) -> bool:
        status = ctypes.c_int()
        self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return bool(status.value)

    def host_flags(self, address: int) -> int:
        """With which page-locked memory was allocated."""
        flags = ctypes.c_uint()
        self._library.cuMemHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(address))
        return flags.value

    def allocate(self, size: int) -> int | None:
        """Device memory for a stand-in's own needs, or None if there is none left."""
        pointer = ctypes.c_ulonglong()
        failed = self._library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
        return None if failed else pointer.value

    def free(self, pointer: int) -> None:
        self._library.cuMemFree_v2(ctypes.c_ulonglong(pointer))


@cache
def load_simulated_gpu(folder: Path) -> SimulatedGpu:
    """Build, unless `folder` already has this version, and load it into this process.

    Raises:
        Unavailable: no compiler, no pycuda, or a real driver is already loaded.
    """
    spec = importlib.util.find_spec("pycuda")
    if spec is None or not spec.origin:
        raise Unavailable("pycuda is not installed")
    drivers = sorted(Path(spec.origin).parent.glob("_driver*.so"))
    if not drivers:
        raise Unavailable("pycuda has no driver module")
    if os.name == "nt" or not shutil.which("g++") or not shutil.which("nm"):
        raise Unavailable("building the simulated driver needs g++ and nm")
    # Loaded first and for everyone, it is the libcuda.so.1 that pycuda and cuda-bindings then find.
    library = ctypes.CDLL(str(_built(drivers[0], folder)), mode=ctypes.RTLD_GLOBAL)
    if not hasattr(ctypes.CDLL("libcuda.so.1"), "sim_reset"):
        raise Unavailable("a real NVIDIA driver is loaded in this process; run: pytest tests/gpu")
    return SimulatedGpu(library)


def _built(driver: Path, folder: Path) -> Path:
    files = sorted(SOURCES.iterdir())
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    digest.update(str(driver.stat().st_size).encode())
    place = folder / digest.hexdigest()[:16]
    library = place / "libcuda.so.1"
    if library.exists():
        return library
    place.mkdir(parents=True, exist_ok=True)
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
    sources = [str(file) for file in files if file.suffix == ".cpp"]
    rest = place / "rest.cpp"
    rest.write_text(_rest(driver, files))
    draft = place / f"libcuda.{os.getpid()}"
    _run([*command, *sources, str(rest), "-ldl", "-o", str(draft)])
    draft.replace(library)
    return library


def _rest(driver: Path, files: list[Path]) -> str:
    """Bodies for everything else that pycuda links: the driver's answer for "not supported"."""
    symbols = (line.split() for line in _run(["nm", "-D", "--undefined-only", str(driver)]).splitlines())
    wanted = sorted(parts[-1] for parts in symbols if parts[-1].startswith("cu"))
    simulated = "".join(file.read_text() for file in files)
    missing = [name for name in wanted if f"CUresult {name}(" not in simulated]
    return '#include "abi.h"\n'.replace("abi.h", str(SOURCES / "abi.h")) + "".join(
        f"EXPORT CUresult {name}() {{ return NOT_SUPPORTED; }}\n" for name in missing
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
