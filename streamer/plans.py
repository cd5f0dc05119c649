"""The plans of GPU engines: built ahead of the first job, listed, and cleared."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import engines
from onnx_models.cards import load_card, verify
from streamer.color import SITINGS
from streamer.errors import UsageError, check_known
from streamer.fitting import Fitter
from streamer.frame import ColorSpec, VideoFormat, layout_of

_SIZE = re.compile(r"(\d+)x(\d+)")
_LEVELS = range(6)
_MIB = 1 << 20
_HOUR_S, _DAY_S = 3600, 86400


def build(
    model: str,
    size: str,
    *,
    smallest: str | None = None,
    largest: str | None = None,
    pix_fmt: str = "yuv420p",
    siting: str = "left",
    engine: str = "auto",
    device: int = 0,
    precision: str = "auto",
    islands: int = 0,
    level: int | None = None,
    stabilise: bool = True,
) -> str:
    """Builds the plan that a job with this model would use for frames of this size, and shows how far it is.

    With `smallest` or `largest`, one plan for all sizes between them, which is fastest at `size`. `pix_fmt`, and
    `siting` as in `ColorSpec.chroma_location`, are the frames'; a plan is for one of each. `islands` is how much of a
    float16 network stays in float32, see `engines.EngineRequest`. `stabilise` is for jobs that stabilise adaptively, as
    they do by default; others have plans of their own.

    Runs on a thread of its own, so that an interrupt is noticed here while the library builds; it stops then at its
    next step, and nothing is kept.

    Raises:
        UsageError: a size, level or name that doesn't exist, or a size that is not between the others.
        CardError: an unknown or damaged model.
        EngineError: no GPU or library, or the model can't be built; the message says which.
        KeyboardInterrupt: it was cancelled.
    """
    if level is not None and level not in _LEVELS:
        raise UsageError(f"there is no optimisation level {level}: use {_LEVELS.start} (builds fast) to {_LEVELS[-1]}")
    check_known("engine", engine, engines.engine_names())
    sizes = [_parsed(given or size) for given in (smallest, size, largest)]
    for axis in (0, 1):
        if not sizes[0][axis] <= sizes[1][axis] <= sizes[2][axis]:
            raise UsageError(f"--size {size} is not between {smallest or size} and {largest or size}: widen the range")
    if layout_of(pix_fmt) is None or siting not in SITINGS:
        raise UsageError(
            f"no plan is for {pix_fmt} with chroma at {siting}: use a planar format, such as yuv420p or yuv420p10le, "
            f"and one of {', '.join(SITINGS)}"
        )
    card = load_card(model)
    verify(card)
    formats = [VideoFormat(*each, pix_fmt, ColorSpec(chroma_location=siting)) for each in sizes]
    low, request, high = (Fitter(card, format, may_stabilise=stabilise).gpu_request() for format in formats)
    request = replace(request, engine=engine, device=device, precision=precision, islands=islands)

    def work(progress: Callable[[str, int, int], None]) -> engines.EngineRow:
        ends = {"smallest": (low.width, low.height), "largest": (high.width, high.height)}
        return engines.build_engine(request, **ends, level=level, progress=progress)

    row = _cancellable(work)
    span = f"{smallest or size} to {largest or size}, best at {size}" if smallest or largest else size
    return f"{row.name} is ready for {card.name} at {span}"


def table() -> str:
    """One line per cached plan, the one used last first."""
    cache = engines.PlanCache()
    entries = cache.entries()
    if not entries:
        return f"no plans are cached in {cache.folder}"
    lines = [
        f"{entry.title:44} {entry.backend:13} {entry.size_bytes / _MIB:7.1f} MiB  {_age(entry.age_s):>9}  {entry.gpu}"
        for entry in entries
    ]
    total = sum(entry.size_bytes for entry in entries) / _MIB
    return "\n".join([*lines, f"{len(entries)} plans, {total:.1f} MiB, in {cache.folder}"])


def clear() -> str:
    """Deletes all cached plans and says how much that freed."""
    cache = engines.PlanCache()
    return f"freed {cache.clear() / _MIB:.1f} MiB in {cache.folder}"


def _parsed(size: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(size)
    if not found or "0" in (found[1].lstrip("0") or "0", found[2].lstrip("0") or "0"):
        raise UsageError(f"{size!r} is not a size: write it as 1280x720")
    return int(found[1]), int(found[2])


def _age(seconds: float) -> str:
    if seconds < _HOUR_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / _HOUR_S:.0f} h" if seconds < _DAY_S else f"{seconds / _DAY_S:.0f} days"


def _cancellable(work: Callable[[Callable[[str, int, int], None]], engines.EngineRow]) -> engines.EngineRow:
    cancelled = threading.Event()
    with _shown() as show:

        def progress(phase: str, done: int, steps: int) -> None:
            if cancelled.is_set():
                raise KeyboardInterrupt
            show(phase, done, steps)

        with ThreadPoolExecutor(1, thread_name_prefix="build") as executor:
            future = executor.submit(work, progress)
            try:
                return future.result()
            except BaseException:
                cancelled.set()
                raise


@contextmanager
def _shown() -> Iterator[Callable[[str, int, int], None]]:
    if not sys.stderr.isatty():
        yield lambda phase, done, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps)
            bar.update(tasks[phase], completed=done)

        yield show
