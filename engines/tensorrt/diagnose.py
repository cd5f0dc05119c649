"""What is wrong with a GPU's software, part by part, said for people."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from ..base import vendor_reason
from .driver import DriverError, find_driver
from .symptoms import explain
from .vendor import TENSORRT, TENSORRT_RTX, Backend, Journal, load_vendor, started

if TYPE_CHECKING:
    from collections.abc import Callable


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
    vendor = load_vendor(backend)
    started(journal, lambda: vendor.Builder(journal.logger(vendor)))
    return f"{vendor.__version__}, starts"
