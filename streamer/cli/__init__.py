"""The command line. Heavy modules are imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import signal

import typer

from streamer.cli.enhance import demo, enhance, preview
from streamer.cli.look import compare, doctor, engines_app, models_app
from streamer.cli.options import VersionOption
from streamer.cli.streams import run_streams

app = typer.Typer(
    help="Enhance video with small neural networks, in real time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (enhance, preview, demo, compare, doctor):
    app.command()(command)
app.command("run")(run_streams)
app.add_typer(models_app, name="models")
app.add_typer(engines_app, name="engines")


@app.callback()
def options(
    version: VersionOption = False,
) -> None:
    """Enhance video with small neural networks, in real time."""


def main() -> None:
    """Entry point; exits with 0 done, 1 failed, 2 bad usage, 130 interrupted (Ctrl-C or SIGTERM)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # services stop programs so: files are finished too
    app()
