"""`run`: several streams of a file."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.options import JsonOption, LogLevel, LogLevelOption, MetricsOption
from streamer.cli.running import guarded, report

if TYPE_CHECKING:
    from streamer.streams import Outcome


def run_streams(
    file: Annotated[Path, typer.Argument(metavar="STREAMS.toml", help="A table [streams.NAME] for each stream.")],
    metrics: MetricsOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Run the streams of a file together; one that fails leaves the others running."""

    def run() -> None:
        from streamer.config import load_streams
        from streamer.progress import shown_streams
        from streamer.streams import StreamRunner

        streams = load_streams(file)
        names = [stream.name for stream in streams]
        to_stderr = any("-" in stream.outputs for stream in streams)
        with shown_streams(names, quiet=as_json, terminal=sys.stderr.isatty()) as on_progress:
            runner = StreamRunner(
                streams,
                on_progress=on_progress,
                on_stats=partial(_print_event, to_stderr) if as_json else None,
                on_end=_report_failure,
                metrics=metrics,
            )
            interrupt = None
            try:
                outcomes = runner.run()
            except KeyboardInterrupt as error:
                if not hasattr(error, "outcomes"):
                    raise
                interrupt, outcomes = error, error.outcomes
        _report_streams(outcomes, as_json, to_stderr)
        if any(outcome.error is not None for outcome in outcomes):
            sys.exit(1)
        if interrupt is not None:
            raise interrupt

    guarded(run, log_level)


def _print_event(to_stderr: bool, name: str, event: dict[str, Any]) -> None:
    typer.echo(json.dumps({"stream": name, **event}), err=to_stderr)


def _report_failure(outcome: Outcome) -> None:
    if outcome.error is not None:
        typer.echo(f"error: stream {outcome.name}: {outcome.error}", err=True)


def _report_streams(outcomes: tuple[Outcome, ...], as_json: bool, to_stderr: bool) -> None:
    if as_json:
        found = {outcome.name: outcome.as_dict() for outcome in outcomes}
        typer.echo(json.dumps({"streams": found}), err=to_stderr)
        return
    for outcome in outcomes:
        if outcome.summary is None:
            how = "failed" if outcome.error is not None else "stopped before its first picture"
            typer.echo(f"stream {outcome.name}: {how}", err=to_stderr)
        else:
            typer.echo(f"stream {outcome.name}:", err=to_stderr)
            report(outcome.summary, False, to_stderr)
