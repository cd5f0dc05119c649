"""How far a job is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.job import Progress

_LINE_EVERY_S = 5.0


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Gives a function to call after every frame, from any one thread; what it shows goes to standard error."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        yield _Lines().update


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} frames/s  {task.fields[speed]:.2f}x"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, fps=0.0, speed=0.0)
        yield lambda p: bar.update(task, completed=p.frames, total=p.total, fps=p.fps, speed=p.speed)


class _Lines:
    def __init__(self) -> None:
        self._next_s = _LINE_EVERY_S

    def update(self, progress: Progress) -> None:
        if progress.elapsed_s < self._next_s:
            return
        self._next_s = progress.elapsed_s + _LINE_EVERY_S
        total = f" of {progress.total}" if progress.total else ""
        print(
            f"frame {progress.frames}{total}, {progress.fps:.1f} frames/s, {progress.speed:.2f}x real time",
            file=sys.stderr,
            flush=True,
        )
