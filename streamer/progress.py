"""How far a job is: a bar on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from streamer.job import Progress
from streamer.observer import line_of

_LINE_EVERY_S = 5.0


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
    def __init__(self) -> None:
        self._next_s = _LINE_EVERY_S
        self._live = False

    def __call__(self, progress: Progress) -> None:
        if self._live or progress.elapsed_s < self._next_s:
            return
        self._next_s = progress.elapsed_s + _LINE_EVERY_S
        total = f" of {progress.total}" if progress.total else ""
        self._print(f"frame {progress.frames}{total}, {progress.fps:.1f} frames/s, {progress.speed:.2f}x real time")

    def stats(self, event: dict[str, Any]) -> None:
        self._live = True
        if event["time_s"] >= self._next_s:
            self._next_s = event["time_s"] + _LINE_EVERY_S
            self._print(f"frame {event['frames']}, {line_of(event)}")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
