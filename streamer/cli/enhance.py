"""`enhance`, `preview` and `demo`: one job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import (
    INPUT_HELP,
    OUTPUT_HELP,
    TIME,
    EngineOption,
    ForceOption,
    JsonOption,
    LevelOption,
    LogLevel,
    LogLevelOption,
    MetricsOption,
    ModelOption,
    NoiseOption,
    PrecisionOption,
    StabiliseOption,
    StrengthOption,
    parse_seconds,
)
from streamer.cli.running import job

if TYPE_CHECKING:
    from streamer.job import Summary
    from streamer.progress import Display


def enhance(
    input: Annotated[str, typer.Argument(metavar="INPUT", help=INPUT_HELP)],
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT...", help=OUTPUT_HELP)],
    model: ModelOption = "auto",
    scale: Annotated[int | None, typer.Option(help="How much larger; picks the model.")] = None,
    strength: StrengthOption = 1.0,
    stabilise: StabiliseOption = "auto",
    stabilise_strength: Annotated[float, typer.Option(help="How much the past counts, 0 to 1.")] = 1.0,
    level: LevelOption = "auto",
    noise: NoiseOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    device: Annotated[int, typer.Option(help="Which GPU, where there are several.")] = 0,
    codec: Annotated[
        str | None, typer.Option(help="h264, hevc, av1, vp9, ffv1, prores, mjpeg, mpeg4, nvenc or an FFmpeg encoder.")
    ] = None,
    crf: Annotated[float | None, typer.Option(help="Constant quality; smaller is better (h264: 18).")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed, e.g. ultrafast or medium.")] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="Stored pixel format; default: the input's.")] = None,
    start: Annotated[float, typer.Option(parser=parse_seconds, metavar="TIME", help=f"Begin there: {TIME}.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(parser=parse_seconds, metavar="TIME", help=f"Take this much: {TIME}.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frame rate: of a numbered sequence (25), or at most and as a promise, of a live stream."),
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Keep to real time, dropping what comes too late. Default: for cameras and network inputs or outputs.",
        ),
    ] = None,
    reconnect_limit: Annotated[
        int | None, typer.Option(metavar="N", help="Give up a lost live input after N tries in a row; default: never.")
    ] = None,
    rtsp_transport: Annotated[str, typer.Option(help="How RTSP input comes: tcp or udp.")] = "tcp",
    segment: Annotated[
        float | None,
        typer.Option(
            parser=parse_seconds, metavar="TIME", help="Length of each file of a recording such as rec-%03d.mkv."
        ),
    ] = None,
    governor: Annotated[
        bool,
        typer.Option(
            "--governor/--no-governor",
            help="Live: lighter networks or interpolation while there is no time for the model; or dropped frames.",
        ),
    ] = True,
    metrics: MetricsOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Enhance INPUT into one or several OUTPUTs."""

    def run(show: Display) -> Summary:
        import streamer

        return streamer.enhance(
            input,
            outputs,
            model=model,
            scale=scale,
            strength=strength,
            stabilise=stabilise,
            stabilise_strength=stabilise_strength,
            level=level,
            noise=noise,
            engine=engine,
            precision=precision,
            device=device,
            codec=codec,
            crf=crf,
            preset=preset,
            pix_fmt=pix_fmt,
            start=start,
            duration=duration,
            fps=fps,
            live=live,
            reconnect_limit=reconnect_limit,
            rtsp_transport=rtsp_transport,
            segment=segment,
            governor=governor,
            metrics=metrics,
            force=force,
            on_progress=show,
            on_stats=show.stats,
        )

    job(run, as_json=as_json, log_level=log_level, to_stderr="-" in outputs)


def preview(
    input: Annotated[
        str, typer.Argument(metavar="[INPUT]", help=f"Default: the first camera. {INPUT_HELP}")
    ] = "camera:0",
    model: ModelOption = "auto",
    scale: Annotated[int | None, typer.Option(help="How much larger; picks the model.")] = None,
    strength: StrengthOption = 1.0,
    engine: EngineOption = "auto",
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Show INPUT before and after in a window; H shows the keys."""

    def run(show: Display) -> Summary:
        import streamer

        return streamer.enhance(
            input,
            "preview:",
            model=model,
            scale=scale,
            strength=strength,
            engine=engine,
            on_progress=show,
            on_stats=show.stats,
        )

    job(run, as_json=False, log_level=log_level)


def demo(
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("streamer-demo"),
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Enhance the packaged webcam clip; write the video and a before/after picture."""

    def run(show: Display) -> Summary:
        from streamer import demo

        return demo.run(folder, engine=engine, on_progress=show)

    job(run, as_json=as_json, log_level=log_level)
    if not as_json:
        typer.echo(f"before and after: {folder / 'before-after.png'}")
