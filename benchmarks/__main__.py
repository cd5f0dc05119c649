"""`python -m benchmarks`: one command per question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import memory as memory_benchmark
from benchmarks import speed as speed_benchmark
from benchmarks import startup as startup_benchmark
from benchmarks.report import Report

app = typer.Typer(help="Measure streamer-enhancer on this machine.", no_args_is_help=True, add_completion=False)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")]


@app.command()
def speed(
    frames: Annotated[int, typer.Option(min=16, help="Frames per case.")] = speed_benchmark.FRAMES,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each runs every case once.")] = 5,
    json: JsonOption = None,
) -> None:
    """Decoder, network and encoder alone, the whole pipeline, and the loop that people write without it."""
    _show(speed_benchmark.run(frames, repeat), json)


@app.command()
def memory(
    frames: Annotated[int, typer.Option(min=16, help="Frames per run.")] = 5000, json: JsonOption = None
) -> None:
    """Resident memory and picture buffers of the whole pipeline over a long run."""
    _show(memory_benchmark.run(frames), json)


@app.command()
def startup(
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each command.")] = 9, json: JsonOption = None
) -> None:
    """How long importing the package and asking for help take."""
    _show(startup_benchmark.run(repeat), json)


def _show(report: Report, json: Path | None) -> None:
    typer.echo(str(report))
    if json is not None:
        report.write(json)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
