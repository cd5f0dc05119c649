"""One enhancement job: from names and numbers to a running pipeline and a summary."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from types import FrameType
from typing import Any, Literal

import engines
from onnx_models.cards import ModelCard, imported_folder, list_cards, load_card, model_names
from streamer.enhancer import EnhanceStage, check_level, check_strength
from streamer.errors import SourceError, UsageError, check_known, public_url, reason_of
from streamer.frame import Frame
from streamer.metrics import MetricsServer
from streamer.observer import Observer, OnStats
from streamer.pipeline import Pipeline
from streamer.sinks import make_sink
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.outputs import is_live_output, is_real_time, is_screen, place_of
from streamer.sinks.preview import PreviewSink
from streamer.sinks.queued import QueuedSink
from streamer.sinks.segments import SegmentedSink
from streamer.sinks.target import overwrites
from streamer.sources import make_source
from streamer.sources.inputs import is_live
from streamer.stabiliser import OFF, StabiliseStage
from streamer.stage import RECONNECTS, SKIPPED, STAND_INS, Sink, Source, Stage
from streamer.switch import ModelSwitch

log = logging.getLogger(__name__)

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
DEFAULT_SCALE = 2
_PATIENCE_S = 10.0
_LONGEST_S = 1e9
"""No number of seconds, or rate, makes sense beyond; FFmpeg counts microseconds in 64 bits."""
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_RunWindow = Callable[[Callable[[], bool]], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: frames delivered of `total` (None = unknown), media time, and time since the job began.

    `start_s` of `elapsed_s` passed until the first frame was delivered: opening the files, the engine and the encoder.
    """

    frames: int
    total: int | None
    time_s: float
    elapsed_s: float
    start_s: float

    @property
    def fps(self) -> float:
        """Frames per second since the first one."""
        return (self.frames - 1) / (self.elapsed_s - self.start_s) if self.elapsed_s > self.start_s else 0.0

    @property
    def speed(self) -> float:
        """Media seconds per second of work since the first frame; 1 is real time."""
        return self.fps * self.time_s / self.frames if self.frames else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished job did. `notes` is what was said of the input and the outputs, `stats` as in `Stats.summary`."""

    input: str
    outputs: tuple[str, ...]
    model: str
    engine: str
    source_size: str
    output_size: str
    frames: int
    media_s: float
    elapsed_s: float
    start_s: float
    """Of `elapsed_s`, until the first frame was delivered: opening the files, the engine and the encoder."""
    fps: float
    """Frames per second after that."""
    speed: float
    """Media seconds per second after that; 1 is real time."""
    precision: str = ""
    """Of the network's convolutions: f32 or int8; empty without a model."""
    level: float | None = None
    """How compressed the input was taken to be, on average: 0 clean to 1 heavy; None if the model doesn't ask."""
    noise: float | None = None
    """How noisy the input was taken to be, likewise."""
    live: bool = False
    """Whether frames came in real time, and could be dropped."""
    reconnects: int = 0
    """How often the input was lost and found again."""
    levels: dict[str, int] = field(default_factory=dict)
    """Frames by what the governor let be done to them; empty without one."""
    stand_ins: int = 0
    """Frames that stood in for the input's while it had nothing."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Per live output, the frames that its peer didn't take in time."""
    av_offset_ms: dict[str, float] = field(default_factory=dict)
    """Per output with sound, how much that was ahead of its picture, compared with the input, when it was furthest."""
    av_skew_ms: dict[str, float] = field(default_factory=dict)
    """Likewise in delivery, as it was in the end: see `streamer.stats.AvSync`."""
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def enhance(
    input: AnyPath,
    outputs: AnyPath | Sequence[AnyPath],
    *,
    model: str = "auto",
    scale: int | None = None,
    strength: float = 1.0,
    stabilise: str = "auto",
    stabilise_strength: float = 1.0,
    level: float | Literal["auto"] = "auto",
    noise: float | Literal["auto"] = "auto",
    precision: str = "auto",
    engine: str = "auto",
    device: int = 0,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    start: float = 0,
    duration: float | None = None,
    fps: float | None = None,
    live: bool | None = None,
    reconnect_limit: int | None = None,
    rtsp_transport: str = "tcp",
    segment: float | None = None,
    governor: bool = True,
    metrics: str | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_stats: OnStats | None = None,
    on_start: Callable[[Pipeline], None] | None = None,
) -> Summary:
    """Enhances a file, image, numbered sequence, camera or network stream into one or several outputs.

    `model` is a card's name, "auto" (the smallest network for streams that enlarges by `scale`, default 2) or "none"
    (transcode only);
    `stabilise` is "off", "adaptive", "flow" (which follows motion) or "auto" (adaptive with a model, off without), and
    `stabilise_strength` says how much the past counts, 0 to 1;
    `level` and `noise` tell a conditioned model how compressed and how noisy the input is, 0 (clean) to 1 (heavy), or
    "auto" to measure it; `precision` is "f32", "f16" (GPU), "int8" (CPU) or "auto" (f16 on a GPU, int8 where model
    and processor allow it); `start` and `duration` are seconds, `fps` is the frame rate of a numbered sequence.
    `live` says whether frames come in real time and may be dropped when there is no time for them (None: for cameras
    and network streams, and for anything that goes to a network peer); `reconnect_limit` is how many tries in a row may
    fail when a live input is lost (None: for ever); `rtsp_transport` is "tcp" or "udp"; `segment` is how many seconds
    each file of a numbered recording such as rec-%03d.mkv has. A live stream is held to the rate `fps`, by default the
    input's: what comes faster is left out, and while there is no time for the model, the `governor` lets lighter ones
    or interpolation take its place (without it, frames are dropped). `metrics` is a HOST:PORT where Prometheus finds
    figures. `on_stats` is called once a second while a live stream runs, on a thread of its own, with an event as
    `streamer.observer.Observer` describes it; `on_progress` is called after every frame on the pipeline's deliver
    thread, `on_start` once with the pipeline before it starts, so that another thread can watch its `stats` and `stop`
    it. On KeyboardInterrupt the outputs are finished with the frames so far;
    the summary is then the exception's `summary` attribute. Raises StreamerError (UsageError for bad arguments),
    CardError or EngineError; then no output is left behind, but if the input fails on the way, the outputs are finished
    with the frames before.
    """
    targets = [outputs] if isinstance(outputs, (str, bytes, os.PathLike)) else list(outputs)
    names = [os.fsdecode(target) for target in targets]
    source_name = os.fsdecode(input)
    _check_names(source_name, names)
    check_strength(strength)
    stabiliser = _stabiliser(stabilise, stabilise_strength, model, keeps_source="preview:" in names)
    live = is_live(source_name) or any(map(is_real_time, names)) if live is None else live
    held_to = _exact("fps", fps)
    source = make_source(
        source_name,
        start=_exact("start", start),
        duration=_exact("duration", duration),
        rate=held_to,
        live=live,
        reconnect_limit=reconnect_limit,
        rtsp_transport=rtsp_transport,
    )
    card = choose_model(model, scale)
    _check_engine(engine, precision, is_used=card is not None)
    fixed_level = check_level("level", None if level == "auto" else level, card)
    fixed_noise = check_level("noise", None if noise == "auto" else noise, card)
    stages: list[Stage] = []
    if card is not None:
        make = partial(
            EnhanceStage,
            engine=engine,
            device=device,
            strength=strength,
            level=fixed_level,
            noise=fixed_noise,
            precision=precision,
            at_once=source.live,
            governed=source.live and governor,
            fps=held_to,
            keeps_source="preview:" in names or stabiliser is not None,
            stabiliser=stabiliser,
        )
        stages.append(_switch(card, make, stabiliser) if "preview:" in names else make(card))
    stages += [] if stabiliser is None else [stabiliser]
    settings = EncoderSettings(codec, crf, preset, pix_fmt)
    sinks = _sinks(names, settings, force=force, live=live, segment_s=_exact("segment", segment))
    run = _Run(source, on_progress)
    # Files first: they are finished before a live output that fails in the end can discard them.
    in_order = sorted(sinks, key=lambda sink: isinstance(sink, QueuedSink))
    pipeline = Pipeline(source, stages, in_order, on_frame=run.on_frame, fps=held_to)
    if on_start is not None:
        on_start(pipeline)
    try:
        with _watched(pipeline, public_url(source_name), metrics, on_stats if source.live else None):
            interrupt = _wait(pipeline, _window(pipeline, stages, sinks))
    except SourceError:
        _say_finished(names, run.frames, pipeline.later_failure)
        raise
    if not run.frames and interrupt is None:
        raise SourceError(f"{public_url(source_name)} has no frame in the part asked for; check --start and --duration")
    summary = run.summary(source_name, names, stages, sinks, pipeline, live=live, interrupted=interrupt is not None)
    if interrupt is not None:
        interrupt.summary = summary  # type: ignore[attr-defined]  # the caller may want to report what is there
        raise interrupt
    return summary


@contextmanager
def _watched(pipeline: Pipeline, name: str, metrics: str | None, on_stats: OnStats | None) -> Iterator[None]:
    """Shows a pipeline to whoever wants to see it, while the block lasts. Raises UsageError."""
    with ExitStack() as watchers:
        if metrics is not None:
            watchers.enter_context(MetricsServer(metrics)).watch(name, pipeline)
        if on_stats is not None:
            watchers.enter_context(Observer(pipeline, on_stats))
        yield


def _exact(option: str, value: float | None) -> Fraction | None:
    if value is None:
        return None
    if not abs(value) <= _LONGEST_S:  # nor NaN
        raise UsageError(f"--{option} {value} is not a number that makes sense")
    return Fraction(value).limit_denominator(1_000_000)


def _check_engine(name: str, precision: str, *, is_used: bool) -> None:
    """Says once which engine runs and why, if one is used.

    Raises UsageError for names that mean nothing, EngineError for an engine that is used and can't be.
    """
    check_known("engine", name, engines.engine_names())
    check_known("precision", precision, engines.PRECISIONS)
    if is_used:
        for reason in engines.choose_engine(name).reasons:
            log.info("engine %s", reason)


def _stabiliser(mode: str, strength: float, model: str, *, keeps_source: bool) -> StabiliseStage | None:
    """Raises UsageError for an unknown mode, and for a strength out of range."""
    if mode == "auto":
        mode = OFF if model == "none" else "adaptive"  # what is only transcoded keeps its bits
    stage = StabiliseStage(mode, strength=strength, keeps_source=keeps_source)
    return None if mode == OFF else stage


def choose_model(name: str, scale: int | None = None) -> ModelCard | None:
    """The card that `name` and `scale` mean; None for "none".

    Raises UsageError for an unknown name, a scale that no model has, or a name and a scale that disagree.
    """
    if name == "none":
        if scale not in (None, 1):
            raise UsageError(f"--model none keeps the size: leave out --scale {scale}")
        return None
    if name == "auto":
        cards = list_cards()
        wanted = DEFAULT_SCALE if scale is None else scale
        fitting = [card for card in cards if card.scale == wanted]
        # Networks for clean sources amplify what a stream suffered, and vivid ones are for who asks for them.
        card = min(fitting, key=lambda card: (card.flavour != "", card.macs_per_px), default=None)
        if card is None:
            scales = ", ".join(str(value) for value in sorted({card.scale for card in cards}))
            raise UsageError(f"no model enlarges by {wanted}: --scale can be {scales}")
        return card
    names = model_names()
    if name not in names:
        if name.lower().endswith(".onnx"):
            fix = f"import the file first: streamer models import {name}"
        else:
            near = difflib.get_close_matches(name.lower(), names)
            fix = f"choose one of {', '.join(near or names)}, auto or none"
        raise UsageError(f"unknown model {name!r}: {fix}")
    card = load_card(name)
    if scale is not None and scale != card.scale:
        raise UsageError(f"model {name} enlarges by {card.scale}, not by {scale}: leave out --scale or --model")
    return card


def _check_names(source: str, outputs: list[str]) -> None:
    if not outputs:
        raise UsageError("give at least one output")
    files = [name for name in outputs if name != "null:" and not is_live_output(name) and not is_screen(name)]
    for name in files:
        if overwrites(name, source):
            raise UsageError(f"{name} is the input: write to another file")
    places = [place_of(name) for name in outputs if name != "null:"]
    if len(set(places)) < len(places):
        named = ", ".join(public_url(name) for name in outputs)
        raise UsageError(f"an output is named twice among {named}: give every output its own name")


def _sinks(
    names: list[str], settings: EncoderSettings, *, force: bool, live: bool, segment_s: Fraction | None
) -> list[Sink]:
    sinks = [
        make_sink(name, settings, force=force, live=live, is_only=len(names) == 1, segment_s=segment_s)
        for name in names
    ]
    seen: Counter[str] = Counter()
    for sink in sinks:  # keys and passwords are left out of names, which may make them alike
        seen[sink.name] += 1
        if seen[sink.name] > 1:
            sink.name += f" #{seen[sink.name]}"
    if segment_s is not None and not any(isinstance(sink, SegmentedSink) for sink in sinks):
        raise UsageError("--segment is for recordings in numbered files: name the output as in rec-%03d.mkv")
    return sinks


def _switch(
    card: ModelCard, make: Callable[[ModelCard], EnhanceStage], stabiliser: StabiliseStage | None
) -> ModelSwitch:
    """A stage that begins with `card`; a key of the preview goes on to the others of its scale that take as much."""
    cards = (*list_cards(), *list_cards(imported_folder()))
    others = [other for other in cards if other.scale == card.scale and other != card]
    fitting = [other for other in others if other.conditioned or not card.conditioned]
    return ModelSwitch([card, *sorted(fitting, key=lambda other: other.macs_per_px)], make, stabiliser)


def _window(pipeline: Pipeline, stages: list[Stage], sinks: list[Sink]) -> _RunWindow | None:
    """What runs the preview's window, if there is one."""
    preview = next((sink for sink in sinks if isinstance(sink, PreviewSink)), None)
    if preview is None:
        return None
    controls = next((stage for stage in stages if isinstance(stage, ModelSwitch)), None)
    return lambda interrupted: preview.show(controls, pipeline.stats, pipeline.stop, interrupted)


def _wait(pipeline: Pipeline, window: _RunWindow | None = None) -> KeyboardInterrupt | None:
    """Runs to the end, and a window on the calling thread meanwhile.

    A first Ctrl-C ends the stream cleanly and is returned, a second one cancels and is raised.
    """
    interrupt = None
    try:
        try:
            pipeline.start()
            if window is not None:
                with _hearing() as interrupted:
                    window(interrupted)
            pipeline.wait()
        except KeyboardInterrupt as error:
            interrupt = error
            pipeline.stop()
            pipeline.wait()
    except BaseException:
        pipeline.cancel()
        pipeline.join(_PATIENCE_S)  # an input that blocks while it is opened can't be interrupted
        raise
    return interrupt


@contextmanager
def _hearing() -> Iterator[Callable[[], bool]]:
    """Gives whether Ctrl-C came; the block ends in KeyboardInterrupt if it did, wherever that was raised before.

    A window draws in libraries that call Python back, and an exception that is raised there is lost. Signals that the
    caller handles in other ways, or ignores, stay so.
    """
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    changed = [number for number in _INTERRUPTS if ours and signal.getsignal(number) is signal.default_int_handler]
    for number in changed:
        signal.signal(number, hear)
    try:
        yield lambda: heard
    finally:
        for number in changed:
            signal.signal(number, signal.default_int_handler)
    if heard:
        raise KeyboardInterrupt


def _say_finished(names: list[str], frames: int, failure: BaseException | None) -> None:
    """Says what became of the outputs of an input that failed: they are finished, but for a `failure` of their own."""
    if failure is not None:
        log.warning("not every output could be finished: %s", reason_of(failure))
    elif frames:
        finished = ", ".join(public_url(name) for name in names)
        log.warning("%s: finished with the %d frames before the failure", finished, frames)


class _Run:
    """Counts what is delivered, for progress and summary."""

    def __init__(self, source: Source, on_progress: Callable[[Progress], None] | None) -> None:
        self._source = source
        self._on_progress = on_progress
        self._started_ns = self._first_ns = time.monotonic_ns()
        self.frames = 0
        self._media_time = Fraction(0)
        self._size = ""

    def on_frame(self, frame: Frame) -> None:
        self.frames += 1
        self._media_time += frame.duration * frame.time_base
        if self.frames == 1:
            self._first_ns = time.monotonic_ns()
        self._size = f"{frame.format.width}x{frame.format.height}"
        if self._on_progress is not None:
            self._on_progress(self._progress())

    def _progress(self) -> Progress:
        elapsed_s = (time.monotonic_ns() - self._started_ns) / 1e9
        start_s = (self._first_ns - self._started_ns) / 1e9
        return Progress(self.frames, self._source.frames_total, float(self._media_time), elapsed_s, start_s)

    def summary(
        self,
        source_name: str,
        names: list[str],
        stages: list[Stage],
        sinks: list[Sink],
        pipeline: Pipeline,
        *,
        live: bool,
        interrupted: bool,
    ) -> Summary:
        progress = self._progress()
        notes = [*self._source.notes, *(note for sink in sinks for note in sink.notes)]
        stage = next((stage for stage in stages if isinstance(stage, (EnhanceStage, ModelSwitch))), None)
        levels = None if stage is None else stage.mean_levels
        format = self._source.format if self.frames else None
        synced = pipeline.av_sync()
        return Summary(
            input=public_url(source_name),
            outputs=tuple(public_url(name) for name in names),
            model=stage.card.name if stage else "none",
            engine=stage.engine_name if stage else "none",
            source_size=f"{format.width}x{format.height}" if format else "",
            output_size=self._size,
            frames=self.frames,
            media_s=round(progress.time_s, 3),
            elapsed_s=round(progress.elapsed_s, 3),
            start_s=round(progress.start_s, 3),
            fps=round(progress.fps, 2),
            speed=round(progress.speed, 3),
            precision=stage.precision if stage else "",
            level=None if levels is None else round(levels.level, 3),
            noise=None if levels is None else round(levels.noise, 3),
            levels=dict(stage.ladder.frames) if stage is not None and stage.ladder is not None else {},
            live=live,
            reconnects=self._source.counts.get(RECONNECTS, 0),
            stand_ins=self._source.counts.get(STAND_INS, 0),
            skipped={sink.name: sink.counts[SKIPPED] for sink in sinks if SKIPPED in sink.counts},
            av_offset_ms={name: sync.worst_ms for name, sync in synced.items()},
            av_skew_ms={name: sync.skew_ms for name, sync in synced.items()},
            interrupted=interrupted,
            notes=tuple(notes),
            stats=pipeline.stats.summary(),
        )
