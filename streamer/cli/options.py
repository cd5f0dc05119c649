"""What options look like, once for all commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

TIME = "seconds, or 1:23:45.6"


def parse_seconds(text: str) -> float:
    """A time as people write it: seconds, minutes:seconds or hours:minutes:seconds."""
    total = 0.0
    for part in str(text).split(":"):
        total = 60 * total + float(part)
    return total


def parse_level(text: str) -> float | str:
    """How degraded the input is: a number, whose range the job checks, or auto."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 0 (clean) to 1 (heavy)") from None


def show_version(wanted: bool) -> None:
    """Ends the program with it, if that is wanted."""
    if wanted:
        from streamer import __version__

        typer.echo(f"streamer-enhancer {__version__}")
        raise typer.Exit


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


LogLevelOption = Annotated[LogLevel, typer.Option("--log-level", help="How much to say on standard error.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON: one line a second while live, and a summary at the end.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing output files.")]
VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say it and exit.")
]
ModelOption = Annotated[str, typer.Option(help="A model's name, auto, or none (transcode only).")]
EngineOption = Annotated[str, typer.Option(help="auto, or one of those that `streamer engines list` shows.")]
StrengthOption = Annotated[float, typer.Option(help="0 interpolates, 1 is the network, up to 1.5 exaggerates.")]
StabiliseOption = Annotated[
    str,
    typer.Option(help="Against noise and flicker: off, adaptive, flow (follows motion, slower), or auto: adaptive."),
]
LevelOption = Annotated[
    Any,
    typer.Option(
        parser=parse_level, metavar="LEVEL", help="How compressed INPUT is, 0 (clean) to 1, or auto: measure it."
    ),
]
NoiseOption = Annotated[
    Any,
    typer.Option(parser=parse_level, metavar="LEVEL", help="How noisy INPUT is, 0 (clean) to 1, or auto: measure it."),
]
PrecisionOption = Annotated[str, typer.Option(help="f32, int8 (CPU), f16 (GPU), or auto: the fastest.")]
MetricsOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics there (extra `metrics`).")
]


INPUT_HELP = (
    "A file, image, frames/%05d.png, test: (a pattern), camera:0, /dev/video0, screen:, rtsp:// rtmp:// srt:// udp:// "
    "http(s)://, or - (standard input)."
)
OUTPUT_HELP = (
    "Files, images, frames/%05d.png, rtsp:// rtmp:// srt:// udp://, hls:FOLDER, preview: (a window), "
    "virtualcam: (for other programs), - (standard output), or null: (nothing)."
)
