"""Plans, which some engines build before they can run: ahead of the first job, and whether one is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Engine, EngineError
from .opening import make_engine
from .request import AUTO, EngineRequest
from .select import EngineRow, available_engines, choose_engine, entry
from .tensorrt import BuildSettings, Profile, Progress, TensorRTEngine

Size = tuple[int, int]
"""(width, height) of `luma`, in pixels."""


def build_engine(
    request: EngineRequest,
    *,
    smallest: Size | None = None,
    largest: Size | None = None,
    level: int | None = None,
    progress: Progress | None = None,
) -> EngineRow:
    """Build a plan for this GPU, unless exactly this one is cached, and try it once.

    Args:
        request: the engine is "tensorrt", "tensorrt-rtx", or "auto" for the first of them that can run here. The size
            is the one that the plan is fastest at.
        smallest: size that the plan has to serve; by default the request's.
        largest: likewise.
        level: of optimisation, 0 to 5; by default the library's.
        progress: hears how far it is, and may raise to cancel; then the same is raised here.

    Returns:
        The engine that it was built for.

    Raises:
        EngineError: as `open_engine`; an engine that builds nothing; a size that isn't between `smallest` and
            `largest`.
    """
    rows = [row for row in available_engines() if entry(row.name).builds_plans]
    usable = [row.name for row in rows if row.usable]
    if request.engine == AUTO and not usable:
        raise EngineError(
            f"no engine that builds plans can run here: {'; '.join(f'{r.name}: {r.reason}' for r in rows)}"
        )
    row = choose_engine(usable[0] if request.engine == AUTO else request.engine).row
    if not entry(row.name).builds_plans:
        raise EngineError(f"the {row.name} engine builds no plans: use {' or '.join(each.name for each in rows)}")
    size = request.width, request.height
    low, high = smallest or size, largest or size
    profile = Profile(*(request.resized(each).shapes() for each in (low, size, high)))
    sizes = None if low == high else f"{low[0]}x{low[1]} to {high[0]}x{high[1]}"
    settings = BuildSettings(level=level)
    with make_engine(entry(row.name), request, sizes, slots=1, settings=settings, profile=profile, progress=progress):
        return row


def ready_engine(
    request: EngineRequest, *, threads: int | None = None, on_done: Callable[[], None] | None = None
) -> Engine | None:
    """An engine that is not open yet, and whose `open` builds nothing; None if its plan would have to be built.

    Any thread may call this, which does all that takes long and needs no GPU, and another one open the engine. That
    raises EngineError if the plan is gone by then.

    Args:
        request: which model, for which size, on which engine.
        threads: CPU threads; by default one for each CPU this process may use.
        on_done: see `Engine.on_done`.

    Raises:
        EngineError: as `open_engine`, as far as that shows without opening.
    """
    row = entry(choose_engine(request.engine).row.name)
    settings: dict[str, Any] = {"progress": _refuse} if row.builds_plans else {}
    made = make_engine(row, request, threads=threads, **settings)
    made.on_done = on_done
    return None if isinstance(made, TensorRTEngine) and not made.has_plan() else made


def _refuse(phase: str, done: int, steps: int) -> None:
    raise EngineError("its plan was in the cache and is there no more")


def plan_is_ready(request: EngineRequest) -> bool:
    """Whether `open_engine` would not have to build a plan: one that serves the request is cached, or none is needed.

    Raises:
        EngineError: as `open_engine`, as far as that shows without opening.
    """
    made = make_engine(entry(choose_engine(request.engine).row.name), request)
    return not isinstance(made, TensorRTEngine) or made.has_plan()
