"""The table of engines: which can run here, which is chosen, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata

from .base import EngineError
from .cpu import cpu_name
from .int8 import cpu_has_int8
from .onnxruntime import OnnxRuntimeEngine
from .onnxruntime_cuda import FIX as ONNXRUNTIME_CUDA_FIX
from .onnxruntime_cuda import OnnxRuntimeCudaEngine
from .onnxruntime_tensorrt import F16_BITS as ONNXRUNTIME_TENSORRT_F16_BITS
from .onnxruntime_tensorrt import FIX as ONNXRUNTIME_TENSORRT_FIX
from .onnxruntime_tensorrt import OnnxRuntimeTensorRTEngine, has_libraries
from .openvino import OpenVINOEngine
from .pixels import BITS
from .request import AUTO, CALIBRATED, CAREFUL, F16, F32, INT8, WHOLE, EngineRequest
from .tensorrt import (
    TENSORRT,
    TENSORRT_RTX,
    Backend,
    DriverError,
    TensorRTEngine,
    TensorRTRTXEngine,
    find_driver,
)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """What one row of the table means on this machine."""

    name: str
    usable: bool
    reason: str
    """Why it can or can't run here, and what to do if it can't."""
    version: str | None = None
    """The vendor library's version, if that is installed."""
    device: str | None = None
    """What it would run on, if it can run."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine to use, and why. Whoever asked for it should log the reasons, once."""

    row: EngineRow
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineOption:
    """One way of opening a model."""

    name: str
    precision: str
    on_gpu: bool
    builds_plans: bool
    """Opening it may take minutes, unless `plan_is_ready`."""
    islands: int = CALIBRATED
    keeps_state: bool = False
    """See `Engine.keeps_state`."""

    def __str__(self) -> str:
        """Such as "tensorrt in f32"."""
        precision = "" if self.precision == AUTO else f" in {self.precision}"
        return self.name + precision + (" with float32 islands" if self.islands == CAREFUL else "")

    def applied_to(self, request: EngineRequest) -> EngineRequest:
        """The request for this option."""
        return replace(request, engine=self.name, precision=self.precision, islands=self.islands)


OpenableEngine = type[OpenVINOEngine] | type[OnnxRuntimeEngine] | type[TensorRTEngine]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table."""

    name: str
    probe: Callable[[], EngineRow]
    make: OpenableEngine
    precisions: tuple[str, ...]
    """That it can be opened in; the first one is always possible."""
    builds_plans: bool = False
    f16_bits: int = BITS[-1]
    """The deepest pixels that it computes in float16 as well as in float32."""


def available_engines() -> tuple[EngineRow, ...]:
    """Every row of the table, in the order in which "auto" tries them.

    Looks at installed packages without importing them, so it takes milliseconds. Only where TensorRT and pycuda are
    both installed is the NVIDIA driver asked for its GPUs.
    """
    return tuple(row.probe() for row in _TABLE)


def engine_names() -> tuple[str, ...]:
    """All names that may be asked for: "auto", then the table's in its order."""
    return (AUTO, *(row.name for row in _TABLE))


def choose_engine(name: str = AUTO) -> EngineChoice:
    """The named engine, or for "auto" the first usable one.

    Raises:
        EngineError: an unknown name, a named engine that can't run here, or none can.
    """
    if name not in engine_names():
        raise EngineError(f"there is no engine {name!r}: use one of {', '.join(engine_names())}")
    if name != AUTO:
        row = entry(name).probe()
        if not row.usable:
            raise EngineError(f"the {name} engine was asked for and cannot run: {row.reason}")
        return EngineChoice(row, (f"{name}: asked for; {row.reason}",))
    reasons: list[str] = []
    for row in available_engines():
        reasons.append(f"{row.name}: {row.reason}")
        if row.usable:
            return EngineChoice(row, tuple(reasons))
    raise EngineError(f"no engine can run here: {'; '.join(reasons)}")


def engine_options(name: str = AUTO, precision: str = AUTO) -> tuple[EngineOption, ...]:
    """What a model may be opened with, in order of preference, for somebody who goes on when one of them fails.

    First what was asked for; on a GPU that would run it in float16 the same with more and more of it in float32 (see
    `engines.request.ISLANDS`); then every other usable engine likewise, in the precision asked for if it has that, else
    in its own. A named engine has the same successors.

    Raises:
        EngineError: see `choose_engine`.
    """
    first = choose_engine(name).row.name
    names = [first, *(row.name for row in available_engines() if row.usable and row.name != first)]
    options = []
    for each in names:
        found = entry(each)
        wanted = precision if precision in found.precisions or each == first else AUTO
        kind = found.make
        options.append(EngineOption(each, wanted, kind.on_gpu, found.builds_plans, keeps_state=kind.keeps_state))
        if F16 in (wanted, found.precisions[0]) and wanted != F32:
            options.append(replace(options[-1], islands=CAREFUL))
            options.append(replace(options[-1], precision=F32, islands=WHOLE))
    return tuple(options)


def entry(name: str) -> Entry:
    """The row of this name, which must be one of `engine_names`."""
    return next(row for row in _TABLE if row.name == name)


def _probe_openvino() -> EngineRow:
    return _probe_cpu("openvino", ("openvino",), "pip install openvino")


def _probe_onnxruntime() -> EngineRow:
    distributions = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
    return _probe_cpu("onnxruntime", distributions, "pip install 'streamer-enhancer[ort]'")


def _probe_onnxruntime_cuda() -> EngineRow:
    name = OnnxRuntimeCudaEngine.name
    version = _version(("onnxruntime-gpu",)) if _importable("onnxruntime") else None
    if version is None:
        reason = (
            f"the package onnxruntime-gpu is not installed; on a machine with an NVIDIA GPU: {ONNXRUNTIME_CUDA_FIX}"
        )
        return EngineRow(name, False, reason)
    return _on_driver(name, version, F32)


def _probe_onnxruntime_tensorrt() -> EngineRow:
    name = OnnxRuntimeTensorRTEngine.name
    version = _version(("onnxruntime-gpu",)) if _importable("onnxruntime") else None
    if version is None or not has_libraries():
        missing = "onnxruntime-gpu" if version is None else "tensorrt"
        reason = f"the package {missing} is not installed; on a machine with an NVIDIA GPU: {ONNXRUNTIME_TENSORRT_FIX}"
        return EngineRow(name, False, reason, version)
    return _on_driver(name, version, F16)


def _probe_cpu(name: str, distributions: tuple[str, ...], fix: str) -> EngineRow:
    if not _importable(name):
        return EngineRow(name, False, f"the package {name} is not installed; run: {fix}")
    version = _version(distributions)
    precision = "int8 where a network allows it" if cpu_has_int8() else "float32"
    return EngineRow(name, True, f"runs on the CPU in {precision} ({cpu_name()})", version, cpu_name())


def _probe_tensorrt() -> EngineRow:
    return _probe_gpu(TENSORRT)


def _probe_tensorrt_rtx() -> EngineRow:
    return _probe_gpu(TENSORRT_RTX)


def _probe_gpu(backend: Backend) -> EngineRow:
    installed = _importable(backend.module)
    version = _version(backend.distributions) if installed else None
    missing = [name for name in (backend.module, "pycuda") if not _importable(name)]
    if missing:
        what = f"the package {missing[0]} is" if len(missing) == 1 else f"the packages {' and '.join(missing)} are"
        reason = f"{what} not installed; on a machine with an NVIDIA GPU, run: {backend.install}"
        return EngineRow(backend.name, False, reason, version)
    return _on_driver(backend.name, version, F16)


def _on_driver(name: str, version: str | None, precision: str) -> EngineRow:
    """The row of an engine whose packages are all there."""
    try:
        driver = find_driver()
    except DriverError as error:
        return EngineRow(name, False, str(error), version)
    names = ", ".join(f"{number}: {device}" for number, device in enumerate(driver.devices))
    digits = {F16: "float16", F32: "float32"}[precision]
    reason = f"runs on the GPU in {digits} ({names}; the driver has CUDA {driver.cuda})"
    return EngineRow(name, True, reason, version or "unknown", driver.devices[0])


def _importable(module: str) -> bool:
    """Whether a real module is there: stub packages leave a folder that imports as empty."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


# In order of preference. A new engine is one file, one row here and one entry in its tests.
_TABLE = (
    Entry("tensorrt", _probe_tensorrt, TensorRTEngine, (F16, F32), builds_plans=True),
    Entry("tensorrt-rtx", _probe_tensorrt_rtx, TensorRTRTXEngine, (F16, F32), builds_plans=True),
    Entry("onnxruntime-cuda", _probe_onnxruntime_cuda, OnnxRuntimeCudaEngine, (F32, F16)),
    Entry("openvino", _probe_openvino, OpenVINOEngine, (F32, INT8)),
    Entry("onnxruntime", _probe_onnxruntime, OnnxRuntimeEngine, (F32, INT8)),
    # Last, so that "auto" never waits for the plan that it builds while it is opened.
    Entry(
        "onnxruntime-tensorrt",
        _probe_onnxruntime_tensorrt,
        OnnxRuntimeTensorRTEngine,
        (F16, F32),
        f16_bits=ONNXRUNTIME_TENSORRT_F16_BITS,
    ),
)
