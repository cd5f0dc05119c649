"""From a request to an engine: the model in the precision that is wanted, on the engine that was chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Engine, EngineError
from .chroma import with_chroma
from .follower import with_follower
from .int8 import can_int8, cpu_has_int8, to_int8
from .model import model_name
from .pixels import BITS, for_bits
from .request import AUTO, CALIBRATED, F16, F32, INT8, ISLANDS, PRECISIONS, WHOLE, EngineRequest
from .select import Entry, choose_engine, entry
from .tensorrt import PlanCache, Progress, half_precision


def open_engine(
    request: EngineRequest,
    *,
    slots: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    on_done: Callable[[], None] | None = None,
) -> Engine:
    """Open what was asked for, on the calling thread.

    Args:
        request: which model, for which size, on which engine.
        slots: inferences in flight; by default what suits the engine.
        threads: CPU threads; by default one for each CPU this process may use.
        progress: hears how far it is, if a plan has to be built, and may raise to cancel; then the same is raised here.
        on_done: see `Engine.on_done`.

    Returns:
        The open engine. Use, and close it, on this thread.

    Raises:
        OutOfMemoryError: a GPU has too little for one picture of this size.
        EngineError: see `choose_engine`, `for_bits` and `Engine.open`; a size below 1; a device or precision that the
            engine doesn't have.
    """
    row = entry(choose_engine(request.engine).row.name)
    settings: dict[str, Any] = {"progress": progress} if row.builds_plans else {}
    opened = make_engine(row, request, slots=slots, threads=threads, **settings)
    opened.on_done = on_done
    opened.open()
    return opened


def make_engine(row: Entry, request: EngineRequest, sizes: str | None = None, **settings: Any) -> Engine:
    """The engine of this row, not open yet; `settings` are its own. Raises EngineError as `open_engine`.

    `sizes` is what messages and the list of plans say of the picture size.
    """
    shapes, on_gpu = request.shapes(), row.make.on_gpu
    if request.device != 0 and not on_gpu:
        raise EngineError(
            f"the {row.name} engine runs on the CPU, which is device 0: there is no device {request.device}"
        )
    content = for_bits(request.model, request.bits)
    precision = _choose_precision(request, content, row)
    if on_gpu:
        settings["device"] = request.device
    if row.builds_plans:
        settings["cache"] = PlanCache()
    if precision == F16:
        content = half_precision(content, PlanCache(), islands=request.islands)
    elif precision == INT8:
        content = to_int8(content)
    if request.chroma is not None:  # after the conversion, because it must not lose precision
        content = with_chroma(content, request.chroma)
    if request.follower is not None:  # likewise
        if request.bits != BITS[0]:
            raise EngineError(f"cannot put a follower behind a model for {request.bits} bits: it is for {BITS[0]}")
        content = with_follower(content, request.follower)
    title = f"{model_name(request.model)} for {sizes or f'{request.width}x{request.height}'}"
    made = row.make(content, shapes, title=title, **settings)
    made.precision = precision
    return made


def _choose_precision(request: EngineRequest, model: bytes, row: Entry) -> str:
    wanted, islands = request.precision, request.islands
    if wanted not in PRECISIONS:
        raise EngineError(f"there is no precision {wanted!r}: use {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if isinstance(islands, int) and islands not in ISLANDS:
        raise EngineError(
            f"there is no level {islands} of float32 islands: use {ISLANDS[0]} to {ISLANDS[-1]}, or names"
        )
    if wanted not in (AUTO, *row.precisions):
        raise EngineError(
            f"the {row.name} engine has no precision {wanted}: use {' or '.join(row.precisions)}, or auto"
        )
    if wanted == AUTO:
        wanted = INT8 if INT8 in row.precisions and cpu_has_int8() and can_int8(model) else row.precisions[0]
    if islands == WHOLE and wanted == F16:
        return F32
    if wanted == F16 and request.bits > row.f16_bits:
        if request.precision == AUTO:
            return F32
        raise EngineError(
            f"the {row.name} engine has float16 for up to {row.f16_bits} bits, not for {request.bits}: "
            "use precision f32 or auto"
        )
    if islands not in (CALIBRATED, WHOLE) and wanted != F16:
        raise EngineError(f"the {row.name} engine was asked for float32 islands in {wanted}: they are for f16 only")
    return wanted
