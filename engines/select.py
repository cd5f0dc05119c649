"""The table of engines: which can run here, which is chosen, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .base import Engine, EngineError
from .cpu import cpu_name
from .int8 import can_int8, cpu_has_int8, to_int8
from .model import model_name
from .onnxruntime import OnnxRuntimeEngine
from .onnxruntime_cuda import FIX as ONNXRUNTIME_CUDA_FIX
from .onnxruntime_cuda import OnnxRuntimeCudaEngine
from .openvino import OpenVINOEngine
from .pixels import LUMA, for_bits
from .tensorrt import (
    TENSORRT,
    TENSORRT_RTX,
    Backend,
    BuildSettings,
    DriverError,
    PlanCache,
    Progress,
    TensorRTEngine,
    TensorRTRTXEngine,
    find_driver,
    half_precision,
)

if TYPE_CHECKING:
    from pathlib import Path

AUTO = "auto"
F32, F16, INT8 = "f32", "f16", "int8"
PRECISIONS = (AUTO, F32, F16, INT8)


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
    """One way of opening a model: a name and a precision that `open_engine` takes."""

    name: str
    precision: str
    on_gpu: bool
    builds_plans: bool
    """Opening it may take minutes, unless `plan_is_ready`."""


OpenableEngine = type[OpenVINOEngine] | type[OnnxRuntimeEngine] | type[TensorRTEngine]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    probe: Callable[[], EngineRow]
    make: OpenableEngine
    precisions: tuple[str, ...]
    """That it can be opened in; the first one is always possible."""
    builds_plans: bool = False


def available_engines() -> tuple[EngineRow, ...]:
    """Every row of the table, in the order in which "auto" tries them.

    Looks at installed packages without importing them, so it takes milliseconds. Only where TensorRT and pycuda are
    both installed is the NVIDIA driver asked for its GPUs.
    """
    return tuple(entry.probe() for entry in _TABLE)


def engine_names() -> tuple[str, ...]:
    """All names that may be asked for: "auto", then the table's in its order."""
    return (AUTO, *(entry.name for entry in _TABLE))


def choose_engine(name: str = AUTO) -> EngineChoice:
    """The named engine, or for "auto" the first usable one.

    Raises:
        EngineError: an unknown name, a named engine that can't run here, or none can.
    """
    if name not in engine_names():
        raise EngineError(f"there is no engine {name!r}: use one of {', '.join(engine_names())}")
    if name != AUTO:
        row = _entry(name).probe()
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

    First what was asked for; on a GPU that would run it in float16 the same in float32; then every other usable engine,
    in the precision asked for if it has that, else in its own. A named engine has the same successors.

    Raises:
        EngineError: see `choose_engine`.
    """
    first = choose_engine(name).row.name
    names = [first, *(row.name for row in available_engines() if row.usable and row.name != first)]
    options = []
    for each in names:
        entry = _entry(each)
        wanted = precision if precision in entry.precisions or each == first else AUTO
        options.append(EngineOption(each, wanted, entry.make.on_gpu, entry.builds_plans))
        if entry.precisions[0] == F16 and wanted != F32:
            options.append(replace(options[-1], precision=F32))
    return tuple(options)


def open_engine(
    model: Path | bytes,
    *,
    height: int,
    width: int,
    bits: int = 8,
    engine: str = AUTO,
    device: int = 0,
    slots: int | None = None,
    threads: int | None = None,
    precision: str = AUTO,
    on_done: Callable[[], None] | None = None,
) -> Engine:
    """Open a shipped model for one picture size, on the calling thread.

    Args:
        model: a model that follows the contract of `engines.pixels`, as a file or its content.
        height: of `luma`, in pixels.
        width: of `luma`, in pixels.
        bits: 8 for uint8 pixels; 9 to 16 for float32 pixels that hold whole code values.
        engine: a name of the table, or "auto".
        device: which GPU; a CPU has 0 only.
        slots: inferences in flight; by default what suits the engine.
        threads: CPU threads; by default one for each CPU this process may use.
        precision: "f32", "int8" on a CPU (see `engines.int8`), "f16" on a GPU (see `engines.tensorrt.fp16`),
            or "auto": f16 on a GPU, and int8 if the model was made for it and the processor has the instructions.
        on_done: see `Engine.on_done`.

    Returns:
        The open engine. Use, and close it, on this thread.

    Raises:
        EngineError: see `choose_engine`, `for_bits` and `Engine.open`; a size below 1; a
            device that the engine doesn't have.
    """
    entry = _entry(choose_engine(engine).row.name)
    opened = _make(entry, model, (height, width), bits, device, precision, slots=slots, threads=threads)
    opened.on_done = on_done
    opened.open()
    return opened


def build_engine(
    model: Path | bytes,
    *,
    height: int,
    width: int,
    bits: int = 8,
    engine: str = AUTO,
    device: int = 0,
    precision: str = AUTO,
    level: int | None = None,
    progress: Progress | None = None,
) -> EngineRow:
    """Build the plan of a model for one picture size and this GPU, unless it is cached, and try it once.

    Args:
        model, height, width, bits, device, precision: as for `open_engine`.
        engine: "tensorrt", "tensorrt-rtx", or "auto" for the first of them that can run here.
        level: of optimisation, 0 to 5; by default the library's.
        progress: hears how far it is, and may raise to cancel; then the same is raised here.

    Returns:
        The engine that it was built for.

    Raises:
        EngineError: as `open_engine`; an engine that builds nothing.
    """
    rows = [row for row in available_engines() if _entry(row.name).builds_plans]
    usable = [row.name for row in rows if row.usable]
    if engine == AUTO and not usable:
        raise EngineError(
            f"no engine that builds plans can run here: {'; '.join(f'{r.name}: {r.reason}' for r in rows)}"
        )
    row = choose_engine(usable[0] if engine == AUTO else engine).row
    if not _entry(row.name).builds_plans:
        raise EngineError(f"the {row.name} engine builds no plans: use {' or '.join(each.name for each in rows)}")
    given = {"settings": BuildSettings(level=level), "progress": progress}
    with _make(_entry(row.name), model, (height, width), bits, device, precision, slots=1, **given):
        return row


def plan_is_ready(
    model: Path | bytes,
    *,
    height: int,
    width: int,
    bits: int = 8,
    engine: str = AUTO,
    device: int = 0,
    precision: str = AUTO,
) -> bool:
    """Whether `open_engine` with the same arguments would not have to build a plan: it is cached, or there is none.

    Raises:
        EngineError: as `open_engine`, as far as that shows without opening.
    """
    made = _make(_entry(choose_engine(engine).row.name), model, (height, width), bits, device, precision)
    return not isinstance(made, TensorRTEngine) or made.has_plan()


def _make(
    entry: _Entry,
    model: Path | bytes,
    size: tuple[int, int],
    bits: int,
    device: int,
    precision: str,
    **settings: Any,
) -> Engine:
    height, width = size
    if height < 1 or width < 1:
        raise EngineError(f"cannot open a model for {width}x{height}: use sizes of 1 or more")
    on_gpu = entry.make.on_gpu
    if device != 0 and not on_gpu:
        raise EngineError(f"the {entry.name} engine runs on the CPU, which is device 0: there is no device {device}")
    content = for_bits(model, bits)
    chosen = _choose_precision(precision, content, entry)
    if on_gpu:
        settings["device"] = device
    if entry.builds_plans:
        settings["cache"] = PlanCache()
    if chosen == F16:
        content = half_precision(content, PlanCache())
    elif chosen == INT8:
        content = to_int8(content)
    title = f"{model_name(model)} for {width}x{height}"
    made = entry.make(content, {LUMA: (1, 1, height, width)}, title=title, **settings)
    made.precision = chosen
    return made


def _choose_precision(wanted: str, model: bytes, entry: _Entry) -> str:
    if wanted not in PRECISIONS:
        raise EngineError(f"there is no precision {wanted!r}: use {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if wanted == AUTO:
        return INT8 if INT8 in entry.precisions and cpu_has_int8() and can_int8(model) else entry.precisions[0]
    if wanted not in entry.precisions:
        raise EngineError(
            f"the {entry.name} engine has no precision {wanted}: use {' or '.join(entry.precisions)}, or auto"
        )
    return wanted


def _entry(name: str) -> _Entry:
    return next(entry for entry in _TABLE if entry.name == name)


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
    _Entry("tensorrt", _probe_tensorrt, TensorRTEngine, (F16, F32), builds_plans=True),
    _Entry("tensorrt-rtx", _probe_tensorrt_rtx, TensorRTRTXEngine, (F16, F32), builds_plans=True),
    _Entry("onnxruntime-cuda", _probe_onnxruntime_cuda, OnnxRuntimeCudaEngine, (F32, F16)),
    _Entry("openvino", _probe_openvino, OpenVINOEngine, (F32, INT8)),
    _Entry("onnxruntime", _probe_onnxruntime, OnnxRuntimeEngine, (F32, INT8)),
)
