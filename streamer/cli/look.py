"""`compare`, `doctor`, `models` and `engines`: what there is, how good it is, and whether it works here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import JsonOption, LogLevel, LogLevelOption
from streamer.cli.running import guarded

if TYPE_CHECKING:
    from onnx_models.cards import ModelCard

models_app = typer.Typer(help="Look at the models, and import others.", no_args_is_help=True)
engines_app = typer.Typer(help="Look at the engines that run models.", no_args_is_help=True)


def compare(
    reference: Annotated[Path, typer.Argument(help="The original.")],
    distorted: Annotated[Path, typer.Argument(help="What is to be judged; same size and frames.")],
    temporal: Annotated[bool, typer.Option("--temporal", help="Measure flicker too.")] = False,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Measure PSNR-Y and SSIM, and VMAF where the vmaf extra is installed."""

    def run() -> None:
        from streamer.compare import compare_files

        report = compare_files(str(reference), str(distorted), temporal=temporal)
        typer.echo(json.dumps(report.as_dict()) if as_json else str(report))

    guarded(run, log_level)


def doctor(log_level: LogLevelOption = LogLevel.warning) -> None:
    """Say what works on this machine, what doesn't, and why."""

    def run() -> None:
        from streamer.doctor import report

        typer.echo(report())

    guarded(run, log_level)


@models_app.command("list")
def models_list() -> None:
    """One line per model: the shipped ones, then those that were imported."""

    def run() -> None:
        from onnx_models.cards import ZOO

        def line(card: ModelCard) -> str:
            cost = f"{card.macs_per_px} MAC/px  {card.params} parameters"
            return f"{card.name:24} {card.task} x{card.scale}  {cost}{'' if card.path.parent == ZOO else '  imported'}"

        _for_each_model(line)

    guarded(run, LogLevel.warning)


def _for_each_model(line: Callable[[ModelCard], str]) -> None:
    """Prints a line for each; for one that can't be used its reason, and exits with 1 in the end."""
    from onnx_models.cards import CardError, load_card, model_names

    broken = False
    for name in model_names():
        try:
            typer.echo(line(load_card(name)))
        except CardError as error:
            broken = True
            typer.echo(f"{name}: {error}", err=True)
    if broken:
        raise typer.Exit(1)


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument(help="The model's name.")]) -> None:
    """Everything the card says."""

    def run() -> None:
        from onnx_models.cards import load_card

        card = load_card(name)
        for key in (
            "name",
            "task",
            "scale",
            "color",
            "conditioned",
            "macs_per_px",
            "params",
            "halo_px",
            "multiple_of",
            "sha256",
            "licence",
            "origin",
            "train_data",
            "limits",
        ):
            typer.echo(f"{key:12} {getattr(card, key)}")
        learnt = ", ".join(f"{gain:+.3f} dB after {steps}" for steps, gain in card.curve)
        typer.echo(f"{'curve':12} {learnt or 'not recorded'}")
        protocol = ("", "")
        for metric in card.metrics:
            if (metric.set, metric.protocol) != protocol:
                protocol = (metric.set, metric.protocol)
                typer.echo(f"\nmeasured on {metric.set}: {metric.protocol}")
            typer.echo(f"  {metric.condition:28} {metric.name}: {metric.value:g} {metric.unit}")

    guarded(run, LogLevel.warning)


@models_app.command("verify")
def models_verify() -> None:
    """Check every model against its card."""

    def run() -> None:
        from onnx_models.cards import verify

        def line(card: ModelCard) -> str:
            verify(card)
            return f"{card.name}: ok"

        _for_each_model(line)

    guarded(run, LogLevel.warning)


@models_app.command("import")
def models_import(
    file: Annotated[
        Path, typer.Argument(help="An ONNX file: a network that takes a gray or RGB picture and gives one.")
    ],
    name: Annotated[str | None, typer.Option(help="Of the model; default: the file's.")] = None,
    values: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="BLACK WHITE", help="What it calls so; default: 0 1, 0 255 or -1 1, whichever fits."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an imported model of that name.")] = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Make a network of others a model of yours, for --model. It is tried on pictures, which can take minutes."""

    def run() -> None:
        from streamer.imported import import_model

        imported = import_model(file, name, values=values, force=force)
        card = imported.card
        sides = "" if card.multiple_of == 1 else f", sides in multiples of {card.multiple_of}"
        typer.echo(f"{card.name}: {card.task} x{card.scale}, sees {card.halo_px} px around each{sides}")
        for note in imported.notes:
            typer.echo(f"  {note}")
        typer.echo(f"use it as --model {card.name}")

    guarded(run, log_level)


@models_app.command("remove")
def models_remove(name: Annotated[str, typer.Argument(help="Of an imported model.")]) -> None:
    """Delete an imported model."""

    def run() -> None:
        from streamer.imported import remove_model

        remove_model(name)
        typer.echo(f"removed {name}")

    guarded(run, LogLevel.warning)


@models_app.command("export")
def models_export(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    folder: Annotated[Path, typer.Argument(help="Where to put its ONNX file and its card.")],
) -> None:
    """Copy a model's ONNX file and its card, for use elsewhere."""

    def run() -> None:
        from streamer.imported import export_model

        typer.echo(export_model(name, folder))

    guarded(run, LogLevel.warning)


@engines_app.command("list")
def engines_list() -> None:
    """Which engines can run here, in order of preference, and why; and which plans are cached."""

    def run() -> None:
        from streamer import plans
        from streamer.doctor import engine_table

        typer.echo(engine_table())
        typer.echo(plans.table())

    guarded(run, LogLevel.warning)


@engines_app.command("build")
def engines_build(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the input's frames, such as 1280x720.")],
    smallest: Annotated[
        str | None, typer.Option("--min", metavar="WxH", help="Build one plan for all sizes from this one on ...")
    ] = None,
    largest: Annotated[
        str | None, typer.Option("--max", metavar="WxH", help="... up to this one; best at --size.")
    ] = None,
    pix_fmt: Annotated[str, typer.Option(help="Of the input's frames.")] = "yuv420p",
    siting: Annotated[
        str, typer.Option(help="Where its chroma lies: left (usual), center (JPEG), topleft (HDR) ...")
    ] = "left",
    engine: Annotated[str, typer.Option(help="auto, tensorrt or tensorrt-rtx.")] = "auto",
    device: Annotated[int, typer.Option(help="Which GPU, where there are several.")] = 0,
    precision: Annotated[str, typer.Option(help="f16, f32, or auto: f16.")] = "auto",
    islands: Annotated[int, typer.Option(help="Of f16, what stays in f32: 0 what overflows, 1 more of it, 2 all.")] = 0,
    opt_level: Annotated[int | None, typer.Option(help="0 builds fast, 5 runs fast; default: the library's.")] = None,
    stabilise: Annotated[
        bool, typer.Option("--stabilise/--no-stabilise", help="For jobs that stabilise as they do by default.")
    ] = True,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Build a model's plan for this GPU now, so that the first job starts at once. Ctrl-C cancels."""

    def run() -> None:
        from streamer import plans

        told = plans.build(
            model,
            size,
            smallest=smallest,
            largest=largest,
            pix_fmt=pix_fmt,
            siting=siting,
            engine=engine,
            device=device,
            precision=precision,
            islands=islands,
            level=opt_level,
            stabilise=stabilise,
        )
        typer.echo(told)

    guarded(run, log_level)


@engines_app.command("clear")
def engines_clear() -> None:
    """Delete all cached plans."""

    def run() -> None:
        from streamer import plans

        typer.echo(plans.clear())

    guarded(run, LogLevel.warning)
