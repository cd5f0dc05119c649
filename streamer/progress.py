"""How far jobs are: a bar on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from streamer.job import Progress
from streamer.observer import line_of
from streamer.stats import Stats

_LINE_EVERY_S = 5.0

ShowProgress = Callable[[str, Progress, Stats], None]
"""Is called with a stream's name, its progress and its statistics after each of its frames, on any thread."""


class Display(Protocol):
    """Is called after every frame, from any one thread; `stats` once a second while a live stream runs, from another.

    What people read goes to standard error.
    """

    def __call__(self, progress: Progress) -> None: ...
    def stats(self, event: dict[str, Any]) -> None: ...


@contextmanager
def shown_progress(*, as_json: bool = False, to_stderr: bool = False) -> Iterator[Display]:
    """The display for where this process runs; `as_json` prints the events of `stats`, one a line."""
    if as_json:
        yield _Json(sys.stderr if to_stderr else sys.stdout)
    elif sys.stderr.isatty():
        with _bar() as display:
            yield display
    else:
        yield _Lines()


class _Json:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, progress: Progress) -> None:
        """Events and the summary say it all."""

    def stats(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


class _Bar:
    """The events of a live stream take the place of what is known of a file's progress."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, text="")
        self._live = False

    def __call__(self, progress: Progress) -> None:
        changes = {} if self._live else {"text": f"{progress.fps:.1f} frames/s  {progress.speed:.2f}x"}
        self._bar.update(self._task, completed=progress.frames, total=progress.total, **changes)

    def stats(self, event: dict[str, Any]) -> None:
        self._live = True
        self._bar.update(self._task, text=line_of(event))


@contextmanager
def _bar() -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar)


class _Lines:
    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._next_s = _LINE_EVERY_S
        self._live = False

    def __call__(self, progress: Progress, stats: Stats | None = None) -> None:
        if not self._live and self._is_due(progress.elapsed_s):
            self._print(progress_line(progress, stats))

    def stats(self, event: dict[str, Any]) -> None:
        self._live = True
        if self._is_due(event["time_s"]):
            self._print(f"frame {event['frames']}, {line_of(event)}")

    def _is_due(self, time_s: float) -> bool:
        if time_s < self._next_s:
            return False
        self._next_s = time_s + _LINE_EVERY_S
        return True

    def _print(self, text: str) -> None:
        print(f"{self._prefix}{text}", file=sys.stderr, flush=True)


def progress_line(progress: Progress, stats: Stats | None = None) -> str:
    """One job's figures on one line, with those of a stream's `stats` where they are given."""
    total = f" of {progress.total}" if progress.total else ""
    line = f"frame {progress.frames}{total}, {progress.fps:.1f} frames/s, {progress.speed:.2f}x real time"
    if stats is None:
        return line
    return f"{line}, {stats.lost} dropped, latency {stats.latency.percentile_ms(95):.0f} ms (p95)"


@contextmanager
def shown_streams(names: Sequence[str], *, quiet: bool, terminal: bool) -> Iterator[ShowProgress]:
    """Gives a function for StreamRunner's `on_progress`: a line for each stream, on standard error.

    On a `terminal` the lines are renewed in place, elsewhere each is printed now and then.
    """
    if quiet:
        yield lambda name, progress, stats: None
    elif not terminal:
        lines = {name: _Lines(f"{name}: ") for name in names}
        yield lambda name, progress, stats: lines[name](progress, stats)
    else:
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import TextColumn

        text = TextColumn("{task.description}: {task.fields[line]}", markup=False)
        with Bars(text, console=Console(stderr=True)) as bars:
            tasks = {name: bars.add_task(name, total=None, line="starting") for name in names}
            yield lambda name, progress, stats: bars.update(tasks[name], line=progress_line(progress, stats))
