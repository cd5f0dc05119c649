"""The command line. Heavy modules are imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from streamer.job import Summary
    from streamer.progress import Display
    from streamer.streams import Outcome

app = typer.Typer(
    help="Enhance video with small neural networks, in real time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="Look at the shipped models.", no_args_is_help=True)
engines_app = typer.Typer(help="Look at the engines that run models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(engines_app, name="engines")

INTERRUPTED = 130


_TIME = "seconds, or 1:23:45.6"


def _seconds(text: str) -> float:
    """A time as people write it: seconds, minutes:seconds or hours:minutes:seconds."""
    total = 0.0
    for part in str(text).split(":"):
        total = 60 * total + float(part)
    return total


def _level(text: str) -> float | str:
    """How degraded the input is: a number, whose range the job checks, or auto."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 0 (clean) to 1 (heavy)") from None


def _version(wanted: bool) -> None:
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
VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and exit.")]
ModelOption = Annotated[str, typer.Option(help="A model's name, auto, or none (transcode only).")]
EngineOption = Annotated[str, typer.Option(help="auto, or one of those that `streamer engines list` shows.")]
StrengthOption = Annotated[float, typer.Option(help="0 interpolates, 1 is the network, up to 1.5 exaggerates.")]
StabiliseOption = Annotated[
    str,
    typer.Option(help="Against noise and flicker: off, adaptive, flow (follows motion, slower), or auto: adaptive."),
]
LevelOption = Annotated[
    Any,
    typer.Option(parser=_level, metavar="LEVEL", help="How compressed INPUT is, 0 (clean) to 1, or auto: measure it."),
]
NoiseOption = Annotated[
    Any, typer.Option(parser=_level, metavar="LEVEL", help="How noisy INPUT is, 0 (clean) to 1, or auto: measure it.")
]
PrecisionOption = Annotated[str, typer.Option(help="f32, int8 (CPU), f16 (GPU), or auto: the fastest.")]
MetricsOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics there (extra `metrics`).")
]


_INPUT_HELP = (
    "A file, image, frames/%05d.png, test: (a pattern), camera:0, /dev/video0, screen:, rtsp:// rtmp:// srt:// udp:// "
    "http(s)://, or - (standard input)."
)
_OUTPUT_HELP = (
    "Files, images, frames/%05d.png, rtsp:// rtmp:// srt:// udp://, hls:FOLDER, preview: (a window), "
    "virtualcam: (for other programs), - (standard output), or null: (nothing)."
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and exit.")
    ] = False,
) -> None:
    """Enhance video with small neural networks, in real time."""


@app.command()
def enhance(
    input: Annotated[str, typer.Argument(metavar="INPUT", help=_INPUT_HELP)],
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT...", help=_OUTPUT_HELP)],
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
    start: Annotated[float, typer.Option(parser=_seconds, metavar="TIME", help=f"Begin there: {_TIME}.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(parser=_seconds, metavar="TIME", help=f"Take this much: {_TIME}.")
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
        typer.Option(parser=_seconds, metavar="TIME", help="Length of each file of a recording such as rec-%03d.mkv."),
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

    _job(run, as_json=as_json, log_level=log_level, to_stderr="-" in outputs)


@app.command()
def preview(
    input: Annotated[
        str, typer.Argument(metavar="[INPUT]", help=f"Default: the first camera. {_INPUT_HELP}")
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

    _job(run, as_json=False, log_level=log_level)


@app.command("run")
def run_streams(
    file: Annotated[Path, typer.Argument(metavar="STREAMS.toml", help="A table [streams.NAME] for each stream.")],
    metrics: MetricsOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Run the streams of a file together; one that fails leaves the others running."""

    def run() -> None:
        from streamer.config import load_streams
        from streamer.streams import StreamRunner, shown_streams

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

    _guarded(run, log_level)


@app.command()
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

    _job(run, as_json=as_json, log_level=log_level)
    if not as_json:
        typer.echo(f"before and after: {folder / 'before-after.png'}")


@app.command()
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

    _guarded(run, log_level)


@app.command()
def doctor(log_level: LogLevelOption = LogLevel.warning) -> None:
    """Say what works on this machine, what doesn't, and why."""

    def run() -> None:
        from streamer.doctor import report

        typer.echo(report())

    _guarded(run, log_level)


@models_app.command("list")
def models_list() -> None:
    """One line per shipped model."""

    def run() -> None:
        from onnx_models.cards import list_cards

        for card in list_cards():
            typer.echo(f"{card.name:24} {card.task} x{card.scale}  {card.macs_per_px} MAC/px  {card.params} parameters")

    _guarded(run, LogLevel.warning)


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
        ):
            typer.echo(f"{key:12} {getattr(card, key)}")
        for key in ("licence", "origin", "train_data", "limits"):
            typer.echo(f"{key:12} {getattr(card, key)}")
        learnt = ", ".join(f"{gain:+.3f} dB after {steps}" for steps, gain in card.curve)
        typer.echo(f"{'curve':12} {learnt or 'not recorded'}")
        protocol = ("", "")
        for metric in card.metrics:
            if (metric.set, metric.protocol) != protocol:
                protocol = (metric.set, metric.protocol)
                typer.echo(f"\nmeasured on {metric.set}: {metric.protocol}")
            typer.echo(f"  {metric.condition:28} {metric.name}: {metric.value:g} {metric.unit}")

    _guarded(run, LogLevel.warning)


@models_app.command("verify")
def models_verify() -> None:
    """Check every shipped model against its card."""

    def run() -> None:
        from onnx_models.cards import list_cards, verify

        for card in list_cards():
            verify(card)
            typer.echo(f"{card.name}: ok")

    _guarded(run, LogLevel.warning)


@engines_app.command("list")
def engines_list() -> None:
    """Which engines can run here, in order of preference, and why; and which plans are cached."""

    def run() -> None:
        from streamer import plans
        from streamer.doctor import engine_table

        typer.echo(engine_table())
        typer.echo(plans.table())

    _guarded(run, LogLevel.warning)


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

    _guarded(run, log_level)


@engines_app.command("clear")
def engines_clear() -> None:
    """Delete all cached plans."""

    def run() -> None:
        from streamer import plans

        typer.echo(plans.clear())

    _guarded(run, LogLevel.warning)


def main() -> None:
    """Entry point; exits with 0 done, 1 failed, 2 bad usage, 130 interrupted (Ctrl-C or SIGTERM)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # services stop programs so: files are finished too
    app()


def _job(
    run: Callable[[Display], Summary],
    *,
    as_json: bool,
    log_level: LogLevel,
    to_stderr: bool = False,
) -> None:
    """Runs a job with a progress display and reports how it went; `to_stderr` where standard output carries video."""

    def guarded() -> None:
        from streamer.progress import shown_progress

        try:
            with shown_progress(as_json=as_json, to_stderr=to_stderr) as show:
                summary = run(show)
        except KeyboardInterrupt as interrupt:
            if hasattr(interrupt, "summary"):
                _report(interrupt.summary, as_json, to_stderr)
            raise
        _report(summary, as_json, to_stderr)

    _guarded(guarded, log_level)


def _report(summary: Summary, as_json: bool, to_stderr: bool) -> None:
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

        lost = (
            f"{summary.stats['dropped']} frames dropped, {summary.stand_ins} stood in, {summary.reconnects} reconnects"
        )
        lost += f", {summary.stats['lagged']} late"
        skipped = "".join(f", {number} skipped by {name}" for name, number in summary.skipped.items() if number)
        typer.echo(f"live: {lost}{skipped}{offset_note(summary.av_offset_ms)}", err=to_stderr)
        if len(summary.levels) > 1:
            ways = ", ".join(f"{number} with {level}" for level, number in summary.levels.items())
            typer.echo(f"governor: {ways}", err=to_stderr)
    for output in summary.outputs:
        typer.echo(f"written: {output}", err=to_stderr)


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
            _report(outcome.summary, False, to_stderr)


def _guarded(run: Callable[[], None], log_level: LogLevel) -> None:
    """Runs a command; known errors become one message and an exit code, without a traceback unless debugging."""
    _set_up_logging(log_level)
    try:
        run()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
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


def _set_up_logging(level: LogLevel) -> None:
    handler: Any = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)
