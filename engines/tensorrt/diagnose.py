"""What is wrong with a GPU's software, said for people: known symptoms, what they mean, and what to do."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import TYPE_CHECKING

from ..base import EngineError, vendor_reason
from .driver import DriverError, find_driver
from .vendor import TENSORRT, TENSORRT_RTX, Backend, Journal, load_vendor

if TYPE_CHECKING:
    from collections.abc import Callable

SYMPTOMS = (
    (
        r"libcuda\.so\.1.*(No such file|cannot open)|nvcuda\.dll|dlopen libcuda",
        "there is no NVIDIA driver: install it (580 or newer for CUDA 13 packages, 535 or newer for CUDA 12)",
    ),
    (r"no CUDA-capable device", "there is a driver but no GPU that it can use: check nvidia-smi and the container"),
    (r"stub library", "libcuda.so.1 is the CUDA toolkit's stub: take its folder out of LD_LIBRARY_PATH"),
    (
        r"cudaError 35|error:? 35|driver version is insufficient",
        "the driver is older than the CUDA that TensorRT was made for: update the driver, or install the cu12 package",
    ),
    (
        r"factory function returned nullptr",
        "TensorRT does not start; its log says why: usually the driver is too old, or the GPU older than Turing",
    ),
    (
        r"lib(nvinfer|nvonnxparser|tensorrt)\w*\.so",
        "TensorRT's bindings are installed without its libraries: pip install --force-reinstall tensorrt",
    ),
    (r"only a stub for type checkers|no attribute 'Builder'", "only tensorrt-stubs is installed: uninstall it"),
    (r"does not load the plan|deserialize", "the plan is for another version or GPU: run streamer engines clear"),
    (
        r"avcodec_open2\(.*nvenc|NVENC",
        "NVENC cannot be used: no driver or GPU, too many sessions, or a driver older than FFmpeg's headers",
    ),
)
"""A pattern in what a library says, and what it means. The first that fits counts."""


def explain(said: str) -> str:
    """What a message of CUDA, TensorRT, pycuda or NVENC means and what to do; empty if it is not a known one."""
    return next((meaning for pattern, meaning in SYMPTOMS if re.search(pattern, said, re.IGNORECASE)), "")


def diagnose_gpu() -> tuple[str, ...]:
    """One line for each part that GPU engines need: whether it works, and if not, why and what to do.

    Loads the libraries that are installed, and starts them.
    """
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("driver", _driver),
        ("pycuda", _pycuda),
        ("cuda-bindings", _bindings),
        (TENSORRT.name, lambda: _library(TENSORRT)),
        (TENSORRT_RTX.name, lambda: _library(TENSORRT_RTX)),
    )
    return tuple(f"{name}: {_told(check)}" for name, check in checks)


def _told(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # whatever a library may raise is the finding
        said = vendor_reason(error)
        meaning = explain(f"{type(error).__name__}: {said}")
        return f"{said} - {meaning}" if meaning else said


def _driver() -> str:
    try:
        driver = find_driver()
    except DriverError as error:
        return str(error)
    return f"CUDA {driver.cuda}; " + ", ".join(f"{number}: {name}" for number, name in enumerate(driver.devices))


def _pycuda() -> str:
    if importlib.util.find_spec("pycuda") is None:
        return "not installed; pip install pycuda, which needs the CUDA toolkit to build"
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    return f"{importlib.import_module('pycuda').VERSION_TEXT}, ok"


def _bindings() -> str:
    if importlib.util.find_spec("cuda") is None:
        return "not installed, so every frame costs some launches more: pip install cuda-bindings"
    importlib.import_module("cuda.bindings.driver")
    return "ok: a frame is one launch"


def _library(backend: Backend) -> str:
    if importlib.util.find_spec(backend.module) is None:
        return f"not installed; {backend.install}"
    journal = Journal()
    try:
        vendor = load_vendor(backend)
        vendor.Builder(journal.logger(vendor))
    except (EngineError, TypeError, RuntimeError) as error:
        logged = f" ({'; '.join(journal.problems)})" if journal.problems else ""
        raise RuntimeError(f"{error}{logged}") from error
    return f"{vendor.__version__}, starts"
