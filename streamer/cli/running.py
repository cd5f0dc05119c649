"""How a command runs: messages, exit codes, and what is said of a job at its end."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from streamer.cli.options import LogLevel

if TYPE_CHECKING:
    from streamer.job import Summary
    from streamer.progress import Display

INTERRUPTED = 130


def job(
    run: Callable[[Display], Summary],
    *,
    as_json: bool,
    log_level: LogLevel,
    to_stderr: bool = False,
) -> None:
    """Runs a job with a progress display and reports how it went; `to_stderr` where standard output carries video."""

    def work() -> None:
        from streamer.progress import shown_progress

        try:
            with shown_progress(as_json=as_json, to_stderr=to_stderr) as show:
                summary = run(show)
        except KeyboardInterrupt as interrupt:
            if hasattr(interrupt, "summary"):
                report(interrupt.summary, as_json, to_stderr)
            raise
        report(summary, as_json, to_stderr)

    guarded(work, log_level)


def report(summary: Summary, as_json: bool, to_stderr: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.as_dict()), err=to_stderr)
        return
    if summary.interrupted and not summary.frames:
        typer.echo("interrupted before the first frame", err=to_stderr)
        return
    how = "interrupted after" if summary.interrupted else "enhanced" if summary.model != "none" else "copied"
    frames = "1 frame" if summary.frames == 1 else f"{summary.frames} frames"
    by = f" with {summary.model} on {summary.engine}" if summary.model != "none" else ""
    typer.echo(
        f"{how} {frames}, {summary.source_size} to {summary.output_size}{by}, in {summary.elapsed_s:.1f} s",
        err=to_stderr,
    )
    if summary.frames > 1:
        speed = f"{summary.fps:.1f} frames/s, {summary.speed:.2f}x real time"
        typer.echo(f"speed: {speed}, after {summary.start_s:.1f} s to start", err=to_stderr)
    if summary.live:
        from streamer.observer import offset_note

        dropped = summary.stats["dropped"] + summary.stats["dropped_on_arrival"]
        lost = f"{dropped} frames dropped, {summary.stand_ins} stood in, {summary.reconnects} reconnects"
        lost += f", {summary.stats['lagged']} late"
        skipped = "".join(f", {number} skipped by {name}" for name, number in summary.skipped.items() if number)
        typer.echo(f"live: {lost}{skipped}{offset_note(summary.av_offset_ms)}", err=to_stderr)
        if len(summary.levels) > 1:
            ways = ", ".join(f"{number} with {level}" for level, number in summary.levels.items())
            typer.echo(f"governor: {ways}", err=to_stderr)
    for output in summary.outputs:
        typer.echo(f"written: {output}", err=to_stderr)


def guarded(run: Callable[[], None], log_level: LogLevel) -> None:
    """Runs a command; known errors become one message and an exit code, without a traceback unless debugging.

    A reader of standard output that has seen enough, as `head` has, is no error to speak of.
    """
    set_up_logging(log_level)
    try:
        run()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Python flushes once more when it exits; what is left for a reader who is gone is thrown away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if log_level is LogLevel.debug:
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    from engines import EngineError
    from onnx_models.cards import CardError
    from streamer.errors import StreamerError

    code = error.exit_code if isinstance(error, StreamerError) else 1
    known = isinstance(error, (StreamerError, EngineError, CardError))
    hint = "" if known else f" ({type(error).__name__}; this is a defect: --log-level debug shows where)"
    typer.echo(f"error: {error}{hint}", err=True)
    sys.exit(code)


def set_up_logging(level: LogLevel) -> None:
    handler: Any = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)
