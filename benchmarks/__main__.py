"""`python -m benchmarks`: one command per question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks import gpu as gpu_benchmark
from benchmarks import latency as latency_benchmark
from benchmarks import level as level_benchmark
from benchmarks import memory as memory_benchmark
from benchmarks import networks as networks_benchmark
from benchmarks import quality as quality_benchmark
from benchmarks import soak as soak_benchmark
from benchmarks import speed as speed_benchmark
from benchmarks import startup as startup_benchmark
from benchmarks import temporal as temporal_benchmark
from benchmarks.errors import BenchmarkError
from benchmarks.report import Report
from engines import EngineError
from onnx_models.cards import CardError
from onnx_models.errors import TrainingError
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import Callable

_KNOWN = (BenchmarkError, CardError, EngineError, StreamerError, TimeoutError, TrainingError)


app = typer.Typer(help="Measure streamer-enhancer on this machine.", no_args_is_help=True, add_completion=False)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")]


@app.command()
def speed(
    frames: Annotated[int, typer.Option(min=16, help="Frames per case.")] = speed_benchmark.FRAMES,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each runs every case once.")] = 5,
    json: JsonOption = None,
) -> None:
    """Decoder, network and encoder alone, the whole pipeline, and the loop that people write without it."""
    _show(lambda: speed_benchmark.run(frames, repeat), json)


@app.command()
def latency(
    seconds: Annotated[float, typer.Option(min=1, help="Per way, after three for warming up.")] = 30.0,
    model: Annotated[str, typer.Option(help="A shipped model.")] = "upscale-x2-nano",
    output: Annotated[str, typer.Option(help=" or ".join(latency_benchmark.OUTPUTS))] = "rtsp",
    json: JsonOption = None,
) -> None:
    """Glass to glass over loopback, with a clock burnt into the picture: RTSP in, enhanced or not, and out again."""
    if output not in latency_benchmark.OUTPUTS:
        raise typer.BadParameter(f"there is no output {output!r}: use {' or '.join(latency_benchmark.OUTPUTS)}")
    _show(lambda: latency_benchmark.run(seconds, model, output), json)


@app.command()
def memory(
    frames: Annotated[int, typer.Option(min=16, help="Frames per run.")] = 5000, json: JsonOption = None
) -> None:
    """Resident memory and picture buffers of the whole pipeline over a long run."""
    _show(lambda: memory_benchmark.run(frames), json)


@app.command()
def soak(
    seconds: Annotated[int, typer.Option(min=3, help="How long to enhance.")] = 600,
    model: Annotated[str, typer.Option(help="A shipped model.")] = "upscale-x2-nano",
    json: JsonOption = None,
) -> None:
    """A network camera for a long time: frames per second, frames lost, latency and memory as time goes by."""
    _show(lambda: soak_benchmark.run(seconds, model), json)


@app.command()
def startup(
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each command.")] = 9, json: JsonOption = None
) -> None:
    """How long importing the package and asking for help take."""
    _show(lambda: startup_benchmark.run(repeat), json)


@app.command()
def quality(
    folders: Annotated[list[Path], typer.Argument(help="Folders of clips and photographs.")],
    model: Annotated[list[str], typer.Option(help="A shipped model; repeat for others of its scale.")] = [  # noqa: B006
        "upscale-x2-nano"
    ],
    crf: Annotated[list[int], typer.Option(help="Rates of x264; repeat the option.")] = [18, 23, 28, 33, 38],  # noqa: B006
    frames: Annotated[int, typer.Option(min=1, help="From the beginning of each clip.")] = 48,
    sheet: Annotated[Path | None, typer.Option(help="Write magnified crops into this PNG.")] = None,
    json: JsonOption = None,
) -> None:
    """PSNR, SSIM, VMAF and flicker of models on clips as streams deliver them, against bicubic and Lanczos."""
    _show(lambda: quality_benchmark.run(folders, model, crf, frames, sheet), json)


@app.command()
def temporal(
    data: Annotated[list[Path], typer.Argument(help="Folders of clips and photographs.")],
    model: Annotated[str, typer.Option(help="A shipped model.")] = "upscale-x2-nano",
    frames: Annotated[int, typer.Option(min=8, help="Of each sequence.")] = 64,
    mode: Annotated[list[str], typer.Option(help="Repeat the option.")] = ["adaptive", "flow"],  # noqa: B006
    damage: Annotated[
        list[str] | None, typer.Option(help="Such as 'noise 5'; repeat the option. Default: all.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """What stabilising gains over frame by frame and a fixed average, what it costs, and how scene cuts are found."""
    _show(lambda: temporal_benchmark.run(data, model, frames, mode, damage or []), json)


@app.command()
def networks(
    shapes: Annotated[list[str] | None, typer.Argument(help="Such as x2-w16d2u1 or x1-w16d3u2-level.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per network and round.")] = 60,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each runs every network once.")] = 5,
    engine: Annotated[str, typer.Option(help="auto, openvino or onnxruntime.")] = "auto",
    shipped: Annotated[bool, typer.Option(help="The shipped models, too.")] = True,
    json: JsonOption = None,
) -> None:
    """Milliseconds a frame of the shipped networks, and of other shapes with random weights (needs torch)."""
    _show(lambda: networks_benchmark.run(shapes or [], frames, repeat, engine, shipped=shipped), json)


@app.command()
def gpu(
    model: Annotated[str, typer.Option(help="A shipped model.")] = "upscale-x2-nano",
    frames: Annotated[int, typer.Option(min=8, help="Frames per case and round, and of the job.")] = 1000,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each runs every case once.")] = 5,
    engine: Annotated[str, typer.Option(help="auto, tensorrt or tensorrt-rtx.")] = "auto",
    device: Annotated[int, typer.Option(help="Which GPU, where there are several.")] = 0,
    json: JsonOption = None,
) -> None:
    """Milliseconds a frame on an NVIDIA GPU, how much of them its copies and inferences need, and frames/s of a job."""
    _show(lambda: gpu_benchmark.run(model, frames, repeat, engine=engine, device=device), json)


@app.command()
def level(
    data: Annotated[list[Path], typer.Option(help="A folder of photographs and clips; several times for more.")],
    fit: Annotated[Path | None, typer.Option(help="Make new weights and write them to this module.")] = None,
    json: JsonOption = None,
) -> None:
    """How well the level of a stream is seen in its pictures, where the decoder doesn't tell it (needs the data)."""
    _show(lambda: level_benchmark.run(data, fit), json)


def _show(measure: Callable[[], Report], json: Path | None) -> None:
    """Prints what was found, or why there is nothing."""
    if json is not None and not json.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json.parent} for --json")
    try:
        report = measure()
    except _KNOWN as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, StreamerError) else 1) from None
    typer.echo(str(report))
    if json is not None:
        report.write(json)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
