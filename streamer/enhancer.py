"""The enhance stage: luma through a network, chroma resampled beside it, several frames in flight, out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

import engines
from onnx_models.cards import ModelCard
from streamer.color import ChromaScaler
from streamer.device_stabiliser import DeviceStabiliser, is_stabilised
from streamer.errors import EnhanceError, UsageError
from streamer.frame import MAX_PIXELS, MAX_SIDE_PX, ColorSpec, Frame, PixelLayout, Plane, VideoFormat
from streamer.guard import HITS, WINDOW, Guard
from streamer.ladder import Ladder
from streamer.level import LevelMeter, Levels
from streamer.network import Network
from streamer.pool import PlanePool
from streamer.runner import Runner
from streamer.stabiliser import ADAPTIVE, CUTS, StabiliseStage
from streamer.tiling import Tile

MAX_STRENGTH = 1.5
REPLACED_FRAMES = "replaced frames"


@dataclass(frozen=True, slots=True)
class _Inference:
    network: Network
    engine: engines.Engine
    ticket: engines.Ticket
    tile: Tile

    @property
    def is_done(self) -> bool:
        return self.engine.ready(self.ticket)

    @property
    def is_lost(self) -> bool:
        """Whether its engine has been given up."""
        return self.engine is not self.network.engine


@dataclass(frozen=True, slots=True)
class _Part:
    """A tile of a frame on its way, or a whole frame that was interpolated."""

    frame: Frame
    planes: tuple[Plane, ...]
    controls: Mapping[str, Any]
    """What its network was told besides."""
    inference: _Inference | None
    last: bool
    """Whether the frame is complete with it."""
    stabilised: bool = False

    @property
    def is_done(self) -> bool:
        return self.inference is None or self.inference.is_done


class EnhanceStage:
    """Enhances every frame with one model on one engine.

    The network gets luma only; chroma planes are resampled with a bicubic filter at the stream's siting, on a GPU by
    the engine, else here. Depth, colour and time stay as they are; the size grows by the model's scale. `strength`
    blends from the interpolated picture (0) to the network's (1) and may exaggerate up to MAX_STRENGTH; it may be set
    while running, from any thread. `slots` inferences are in flight, so up to that many frames are held back until
    `flush`.

    A conditioned model is told how degraded the stream is by compression (`level`) and by its sensor (`noise`), each
    from 0 (clean) to 1 (heavy), or None to measure it. Raises UsageError for numbers out of range, and for one given to
    a model that takes none. `precision` is "f32", "f16", "int8" or "auto", as in `engines.open_engine`.

    What a GPU gives is looked at by a `Guard`: a damaged frame is replaced by its interpolation, and an engine that
    gives several by another engine. One that fails is replaced, too, and what it had under way is done again. With
    `at_once` a plan that has to be built is not waited for; see `Runner`. Engines change between two frames: none is
    lost, repeated or overtaken by that. `max_tile_px` limits what an engine is given at once; see `Fitter`.

    `governed` frames are held to a rate, `fps` or the stream's own: where there is no time, lighter networks take over,
    or interpolation for some or all frames; see `Ladder` and `Governor`.

    `stabiliser` is the stage behind, if there is one: an engine that can do its work on the device does, as that stage
    is set, and the frames say so (`Frame.stabilised`); see `DeviceStabiliser` and `Fitter`.

    With `wake` set (see `streamer.stage.Prompt`), frames are given as soon as they are done. With `keeps_source` they
    carry what they were made of (`Frame.source`), for a stabiliser or a preview.
    """

    name = "enhance"

    def __init__(
        self,
        card: ModelCard,
        *,
        engine: str = "auto",
        device: int = 0,
        strength: float = 1.0,
        level: float | None = None,
        noise: float | None = None,
        precision: str = "auto",
        max_tile_px: int | None = None,
        threads: int | None = None,
        at_once: bool = False,
        governed: bool = False,
        fps: Fraction | None = None,
        keeps_source: bool = False,
        stabiliser: StabiliseStage | None = None,
    ) -> None:
        self.card = card
        self.strength = check_strength(strength)
        self.levels: Levels | None = None
        """What the last frame's inferences were told; None before the first, and for models that take no levels."""
        self.wake: Callable[[], None] | None = None
        self._keeps_source = keeps_source
        self._fixed_level = check_level("level", level, card)
        self._fixed_noise = check_level("noise", noise, card)
        self._meter = LevelMeter()
        self._levels_sum, self._levels_count = np.zeros(2), 0
        self._runner = Runner(engine=engine, device=device, precision=precision, threads=threads, at_once=at_once)
        self._device = DeviceStabiliser(stabiliser, card.scale) if stabiliser is not None else None
        may_stabilise = stabiliser is not None and stabiliser.mode == ADAPTIVE
        self._main = Network(card, self._runner, max_tile_px, may_stabilise=may_stabilise)

        def lighter(other: ModelCard) -> Network:
            """On the engine that the chosen model runs on."""
            return Network(other, self._runner.alike(), max_tile_px)

        self.ladder = Ladder(self._main, lighter, fps) if governed else None
        self._guard = Guard(8, card.scale)
        self._in_flight: deque[_Part] = deque()
        self._probes: deque[_Inference] = deque()
        self._is_ladder_stale = False
        self._service_ns = 0.0
        self._pool = PlanePool()

    @property
    def engine_name(self) -> str:
        """The back end that runs or ran; before `open`, the one asked for."""
        return self._runner.name

    @property
    def planes_allocated(self) -> int:
        """Picture buffers ever allocated; constant in the steady state."""
        return self._pool.allocated

    @property
    def precision(self) -> str:
        """Of the engine that runs or ran; before `open`, the one asked for."""
        return self._runner.precision

    @property
    def counts(self) -> dict[str, int]:
        """What was unusual so far, by name: frames replaced, engines swapped and replaced, the governor's steps; and
        scene cuts, as far as they were looked for here."""
        replaced = {REPLACED_FRAMES: self._guard.replaced} if self._guard.replaced else {}
        governed = self.ladder.counts if self.ladder is not None else {}
        cuts = {CUTS: self._device.cuts} if self._device is not None and self._device.cuts else {}
        return {**replaced, **self._runner.counts, **governed, **cuts}

    @property
    def status(self) -> dict[str, str | int]:
        """How it stands now; see `streamer.stats.Reading`. Any thread."""
        found: dict[str, str | int] = {"model": self.card.name, "engine": self.engine_name, "precision": self.precision}
        if self.ladder is not None:
            found |= {"level": self.ladder.level, "doing": self.ladder.level_name}
        return found

    @property
    def mean_levels(self) -> Levels | None:
        """The mean of `levels` over all frames so far; None if there was none."""
        return Levels(*(self._levels_sum / self._levels_count).tolist()) if self._levels_count else None

    def open(self, format: VideoFormat) -> VideoFormat:
        """Opens the engine for this format. Raises CardError, EngineError, EnhanceError (a size limit) or Cancelled."""
        import cv2

        cv2.setNumThreads(1)  # chroma is cheap, and the cores belong to the network, decoder and encoder
        scale = self.card.scale
        self._output_format = replace(format, width=format.width * scale, height=format.height * scale)
        _check_output(self._output_format)
        self._chroma = ChromaScaler(format.layout, format.color, scale)
        self._luma = ChromaScaler(PixelLayout(format.layout.bits, planes=1), ColorSpec(), scale)
        self._guard = Guard(format.layout.bits, scale)
        self._main.open(format, self.wake)
        if self.ladder is not None:
            self.ladder.open(format, self.wake)
        self._meter.reset()
        return self._output_format

    def process(self, frame: Frame) -> Iterator[Frame]:
        if frame.discontinuity:
            self._meter.reset()
        if self._runner.prepare():  # frames under way are the old engine's
            yield from self.flush()
            self._runner.swap()
            self._guard.reset()
            self._is_ladder_stale = True
        if self._is_ladder_stale and self.ladder is not None:
            yield from self.flush()  # of the lighter networks, too, which it closes
            self.ladder.restart()
        self._is_ladder_stale = False
        network = self._main if self.ladder is None else self.ladder.choose(frame)
        planes = self._pool.planes(frame.format.layout, self._output_format.width, self._output_format.height)
        if network is not None:
            yield from self._end_probes(must=True)
            yield from self._infer(
                network, frame, planes, self._controls(network, frame) | self._stabiliser_feeds(network, frame)
            )
        else:
            self._stabiliser_feeds(network, frame)
            self._resample_chroma(frame, planes)
            self._luma.resample(frame.planes[0], planes[0])
            self._in_flight.append(_Part(frame, planes, {}, None, last=True))
            yield from self._start_probes(frame)
        if self.wake is not None:
            yield from self._done()
            self._wake_unless_told()
        elif network is None:
            yield from self.flush()

    def ready(self) -> Iterator[Frame]:
        """Gives the frames that are done. For an engine that doesn't tell when they are, waits for the oldest one."""
        yield from self._done()
        if self._wake_unless_told():
            yield from self._collect()

    def held(self, duration_ns: int) -> None:
        """The frame given last had to wait so long for room; the governor doesn't blame the network for that."""
        if self.ladder is not None:
            self.ladder.held(duration_ns)

    def flush(self) -> Iterator[Frame]:
        while self._in_flight:
            yield from self._collect()
        yield from self._end_probes(must=True)

    def reset(self) -> None:
        """Forgets how degraded the stream was; every frame is enhanced by itself."""
        self._meter.reset()
        if self._device is not None:
            self._device.reset()

    def interrupt(self) -> None:
        """Lets `open` raise Cancelled where it would wait for a plan to be built. Any thread."""
        self._runner.interrupt()

    def close(self) -> None:
        self._in_flight.clear()
        self._probes.clear()
        if self.ladder is not None:
            self.ladder.close()
        if self._device is not None:
            self._device.reset()
        self._main.close()

    def _levels_for(self, frame: Frame) -> Levels:
        """One pair for all tiles of a frame."""
        level, noise = self._fixed_level, self._fixed_noise
        if level is None or noise is None:
            measured = self._meter.update(frame)
            level = measured.level if level is None else level
            noise = measured.noise if noise is None else noise
        self.levels = Levels(level, noise)
        self._levels_sum += self.levels
        self._levels_count += 1
        return self.levels

    def _infer(
        self, network: Network, frame: Frame, planes: tuple[Plane, ...], controls: Mapping[str, Any]
    ) -> Iterator[Frame]:
        """Submits all tiles of a frame; gives frames that must be collected to make room."""
        engine = network.engine
        for tile in network.tiles:
            while network.is_full and network.engine is engine:
                yield from self._collect()
            try:
                if network.engine is not engine:  # it failed while there was no room, and this frame has to begin anew
                    break
                told = self._told(network, controls)
                inference = _Inference(network, engine, network.submit(frame.planes, tile, told), tile)
            except engines.InferenceError as error:
                yield from self._recover(network, error)
                break
            last, stabilised = tile is network.tiles[-1], is_stabilised(told)
            self._in_flight.append(_Part(frame, planes, controls, inference, last, stabilised))
        else:
            if not network.gives_chroma:  # while the network works, this thread is free for it
                self._resample_chroma(frame, planes)
            return
        yield from self._infer(network, frame, planes, controls)

    def _recover(self, network: Network, error: engines.InferenceError, *failed: _Part) -> Iterator[Frame]:
        """An inference failed: another engine gets all whole frames that were under way in its network, in their order.

        Raises `error` if there is no other engine.
        """
        waiting = [*failed, *self._in_flight]
        self._in_flight.clear()
        self._service_ns = 0.0
        self._probes = deque(probe for probe in self._probes if probe.network is not network)
        network.replace_failed(error)
        self._guard.reset()
        self._is_ladder_stale |= network is self._main  # what is under way in lighter networks has to leave first
        for part in waiting:
            if part.inference is None or not part.inference.is_lost:
                self._in_flight.append(part)
            elif part.last:
                yield from self._infer(part.inference.network, part.frame, part.planes, part.controls)

    def _resample_chroma(self, frame: Frame, planes: tuple[Plane, ...]) -> None:
        for source, target in zip(frame.planes[1:], planes[1:], strict=True):
            self._chroma.resample(source, target)

    def _controls(self, network: Network, frame: Frame) -> dict[str, Any]:
        controls = {"strength": np.array([self.strength], np.float32)}
        if network.conditioned:
            levels = self._levels_for(frame)
            controls |= {"level": np.array([levels.level], np.float32), "noise": np.array([levels.noise], np.float32)}
        return controls

    def _stabiliser_feeds(self, network: Network | None, frame: Frame) -> dict[str, Any]:
        """What a network that stabilises is told of a frame besides its controls; any other ends the history."""
        if self._device is not None and network is not None and network.stabilises:
            return self._device.look(frame)
        if self._device is not None:
            self._device.reset()
        return {}

    def _told(self, network: Network, controls: Mapping[str, Any]) -> Mapping[str, Any]:
        """The controls as the engine takes them that the network runs on now, which may be another than before."""
        if self._device is None:
            return controls
        return self._device.told(controls, network.engine if network.stabilises else None)

    def _done(self) -> Iterator[Frame]:
        yield from self._end_probes(must=False)
        while self._in_flight and self._in_flight[0].is_done:
            yield from self._collect()

    def _wake_unless_told(self) -> bool:
        """Asks for `ready` to be called again where no engine will; whether it did."""
        oldest = self._in_flight[0].inference if self._in_flight else None
        if self.wake is None or oldest is None or oldest.network.engine.tells:
            return False
        self.wake()
        return True

    def _collect(self) -> Iterator[Frame]:
        part = self._in_flight.popleft()
        frame, planes, inference = part.frame, part.planes, part.inference
        if inference is not None:
            try:
                with np.errstate(invalid="ignore"):  # what is not a number becomes anything, and the guard sees that
                    self._service_ns += inference.network.collect(inference.ticket, inference.tile, planes)
            except engines.InferenceError as error:
                yield from self._recover(inference.network, error, part)
                return
        if not part.last:
            return
        damaged = inference is not None and self._inspect(inference.network, frame, planes)
        for plane in planes:
            plane.flags.writeable = False
        if self.ladder is not None:
            self.ladder.left(frame)
        source = frame if self._keeps_source else None
        stabilised = part.stabilised and not damaged
        yield replace(frame, planes=planes, format=self._output_format, source=source, stabilised=stabilised)

    def _inspect(self, network: Network, frame: Frame, planes: tuple[Plane, ...]) -> bool:
        """A frame came out of a network: how long that took, and whether it had to be replaced."""
        service_ns, self._service_ns = self._service_ns, 0.0
        if self.ladder is not None:
            self.ladder.inferred(network, service_ns)
        if not network.engine.on_gpu:
            return False
        replaced = self._guard.replaced
        if self._guard.inspect(frame.planes[0], planes[0]):
            self._runner.distrust(f"gave {HITS} damaged pictures among {WINDOW}")
        if self._guard.replaced == replaced:
            return False
        if network.gives_chroma:
            self._resample_chroma(frame, planes)
        if self._device is not None:  # what was damaged is part of its history
            self._device.reset()
        return True

    def _start_probes(self, frame: Frame) -> Iterator[Frame]:
        """Tries one tile in every slot when it is time, to see how long a frame would take, and gives nothing of it."""
        network = self.ladder.probe() if self.ladder is not None and not self._probes else None
        if network is None:
            return
        controls, tile = self._told(network, self._controls(network, frame)), network.tiles[0]
        try:
            while not network.is_full:
                ticket = network.submit(frame.planes, tile, controls)
                self._probes.append(_Inference(network, network.engine, ticket, tile))
        except engines.InferenceError as error:
            yield from self._recover(network, error)

    def _end_probes(self, *, must: bool) -> Iterator[Frame]:
        while self._probes and (must or self._probes[0].is_done or not self._probes[0].network.engine.tells):
            probe = self._probes.popleft()
            try:
                service_ns = probe.network.collect(probe.ticket, probe.tile, None) * len(probe.network.tiles)
            except engines.InferenceError as error:
                yield from self._recover(probe.network, error)
                continue
            if self.ladder is not None:
                self.ladder.inferred(probe.network, service_ns)


def check_strength(strength: float) -> float:
    """`strength` if it is a number from 0 to MAX_STRENGTH. Raises UsageError otherwise."""
    if not _is_within(strength, MAX_STRENGTH):
        raise UsageError(f"strength {strength} is out of range: 0 (interpolation) to {MAX_STRENGTH}, 1 is the network")
    return float(strength)


def check_level(name: str, value: float | None, card: ModelCard | None) -> float | None:
    """`value` if it is None or a number from 0 to 1 that the model takes. Raises UsageError otherwise."""
    if value is None:
        return None
    if not _is_within(value, 1):
        raise UsageError(f"{name} {value} is out of range: 0 (clean) to 1 (heavily degraded), or auto")
    if card is None or not card.conditioned:
        model = "none" if card is None else card.name
        raise UsageError(f"model {model} takes no {name}: leave out --{name}, or choose a conditioned model")
    return float(value)


def _is_within(value: object, most: float) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= most


def _check_output(format: VideoFormat) -> None:
    if max(format.width, format.height) > MAX_SIDE_PX or format.width * format.height > MAX_PIXELS:
        raise EnhanceError(
            f"the enhanced picture would be {format.width}x{format.height}; the limit is {MAX_SIDE_PX} pixels a side "
            f"and {MAX_PIXELS >> 20} megapixels: use a smaller --scale"
        )
