"""The enhance stage: luma through a network, chroma resampled beside it, several frames in flight, out in order."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

import engines
from onnx_models.cards import ModelCard, verify
from streamer.color import ChromaScaler
from streamer.errors import EnhanceError, UsageError
from streamer.frame import MAX_PIXELS, MAX_SIDE_PX, Frame, Plane, VideoFormat
from streamer.guard import HITS, WINDOW, Guard
from streamer.level import LevelMeter, Levels
from streamer.pool import PlanePool
from streamer.runner import Runner
from streamer.tiling import Tile, plan_tiles

log = logging.getLogger(__name__)

MAX_STRENGTH = 1.5
REPLACED_FRAMES = "replaced frames"
MAX_TILE_PX = 1 << 20
"""Larger frames are cut into tiles, which bounds the engine's memory and keeps it in the processor's caches."""


@dataclass(frozen=True, slots=True)
class _Inference:
    ticket: engines.Ticket
    tile: Tile
    frame: Frame
    planes: tuple[Plane, ...]
    last: bool
    """Whether the frame is complete when this tile is pasted."""


class EnhanceStage:
    """Enhances every frame with one model on one engine.

    The network gets luma only; chroma planes are resampled with a bicubic filter at the stream's siting. Depth,
    colour and time stay as they are; the size grows by the model's scale. `strength` blends from the interpolated
    picture (0) to the network's (1) and may exaggerate up to MAX_STRENGTH; it may be set while running, from any
    thread. `slots` inferences are in flight, so up to that many frames are held back until `flush`.

    A conditioned model is told how degraded the stream is by compression (`level`) and by its sensor (`noise`), each
    from 0 (clean) to 1 (heavy), or None to measure it. Raises UsageError for numbers out of range, and for one given to
    a model that takes none. `precision` is "f32", "f16", "int8" or "auto", as in `engines.open_engine`.

    What a GPU gives is looked at by a `Guard`: a damaged frame is replaced by its interpolation, and an engine that
    gives several by another engine. With `at_once` a plan that has to be built is not waited for; see `Runner`. Engines
    change between two frames: none is lost, repeated or overtaken by that.

    With `keep_source` every frame carries the luma that it was made from, for a stabiliser behind this stage.
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
        max_tile_px: int = MAX_TILE_PX,
        threads: int | None = None,
        at_once: bool = False,
        keep_source: bool = False,
    ) -> None:
        self.card = card
        self.strength = check_strength(strength)
        self.levels: Levels | None = None
        """What the last frame's inferences were told; None before the first, and for models that take no levels."""
        self._fixed_level = check_level("level", level, card)
        self._fixed_noise = check_level("noise", noise, card)
        self._meter = LevelMeter()
        self._levels_sum, self._levels_count = np.zeros(2), 0
        self._max_tile_px = max_tile_px
        self._keep_source = keep_source
        self._runner = Runner(card, engine=engine, device=device, precision=precision, threads=threads, at_once=at_once)
        self._guard = Guard(8, card.scale)
        self._in_flight: deque[_Inference] = deque()
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
        """What was unusual so far, by name: frames replaced, engines swapped and replaced."""
        replaced = {REPLACED_FRAMES: self._guard.replaced} if self._guard.replaced else {}
        return {**replaced, **self._runner.counts}

    @property
    def mean_levels(self) -> Levels | None:
        """The mean of `levels` over all frames so far; None if there was none."""
        return Levels(*(self._levels_sum / self._levels_count).tolist()) if self._levels_count else None

    def open(self, format: VideoFormat) -> VideoFormat:
        """Opens the engine for tiles of this format. Raises CardError, EngineError or EnhanceError (a size limit)."""
        import cv2

        cv2.setNumThreads(1)  # chroma is cheap, and the cores belong to the network, decoder and encoder
        verify(self.card)
        scale = self.card.scale
        self._output_format = replace(format, width=format.width * scale, height=format.height * scale)
        _check_output(self._output_format)
        self._plan = plan_tiles(
            format.width,
            format.height,
            halo=self.card.halo_px,
            multiple_of=self.card.multiple_of,
            max_px=self._max_tile_px,
        )
        if len(self._plan.tiles) > 1:
            log.info("frames go through the engine in %d tiles", len(self._plan.tiles))
        self._chroma = ChromaScaler(format.layout, format.color, scale)
        self._guard = Guard(format.layout.bits, scale)
        self._runner.open(self._plan, format.layout.bits)
        self._conditioned = any(spec.name == "level" for spec in self._runner.engine.inputs)
        self._meter.reset()
        return self._output_format

    def process(self, frame: Frame) -> Iterator[Frame]:
        if self._runner.prepare():  # frames under way are the old engine's
            yield from self.flush()
            self._runner.swap()
            self._guard.reset()
        engine = self._runner.engine
        tiles = self._plan.tiles
        planes = self._pool.planes(frame.format.layout, self._output_format.width, self._output_format.height)
        controls = {"strength": np.array([self.strength], np.float32)}
        if self._conditioned:
            levels = self._levels_for(frame)
            controls |= {"level": np.array([levels.level], np.float32), "noise": np.array([levels.noise], np.float32)}
        for tile in tiles:
            if len(self._in_flight) == engine.slots:
                yield from self._collect()
            luma = self._plan.cut(frame.planes[0], tile)[None, None]
            ticket = engine.submit({"luma": luma, **controls})
            self._in_flight.append(_Inference(ticket, tile, frame, planes, last=tile is tiles[-1]))
        # While the network works, this thread is free for chroma.
        for source, target in zip(frame.planes[1:], planes[1:], strict=True):
            self._chroma.resample(source, target)

    def flush(self) -> Iterator[Frame]:
        while self._in_flight:
            yield from self._collect()

    def reset(self) -> None:
        """Forgets how degraded the stream was; every frame is enhanced by itself."""
        self._meter.reset()

    def close(self) -> None:
        self._in_flight.clear()
        self._runner.close()

    def _levels_for(self, frame: Frame) -> Levels:
        """One pair for all tiles of a frame."""
        if frame.discontinuity:
            self._meter.reset()
        level, noise = self._fixed_level, self._fixed_noise
        if level is None or noise is None:
            measured = self._meter.update(frame)
            level = measured.level if level is None else level
            noise = measured.noise if noise is None else noise
        self.levels = Levels(level, noise)
        self._levels_sum += self.levels
        self._levels_count += 1
        return self.levels

    def _collect(self) -> Iterator[Frame]:
        engine, oldest = self._runner.engine, self._in_flight.popleft()
        enhanced = engine.collect(oldest.ticket)["enhanced"][0, 0]
        with np.errstate(invalid="ignore"):  # what is not a number becomes anything, and the guard sees that
            self._plan.paste(enhanced, oldest.tile, self.card.scale, oldest.planes[0])
        if not oldest.last:
            return
        if engine.on_gpu and self._guard.inspect(oldest.frame.planes[0], oldest.planes[0]):
            self._runner.distrust(f"gave {HITS} damaged pictures among {WINDOW}")
        for plane in oldest.planes:
            plane.flags.writeable = False
        source = oldest.frame.planes[0] if self._keep_source else None
        yield replace(oldest.frame, planes=oldest.planes, format=self._output_format, source_luma=source)


def check_strength(strength: float) -> float:
    """`strength` if it is a number from 0 to MAX_STRENGTH. Raises UsageError otherwise."""
    if not (math.isfinite(strength) and 0 <= strength <= MAX_STRENGTH):
        raise UsageError(f"strength {strength} is out of range: 0 (interpolation) to {MAX_STRENGTH}, 1 is the network")
    return float(strength)


def check_level(name: str, value: float | None, card: ModelCard | None) -> float | None:
    """`value` if it is None or a number from 0 to 1 that the model takes. Raises UsageError otherwise."""
    if value is None:
        return None
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise UsageError(f"{name} {value} is out of range: 0 (clean) to 1 (heavily degraded), or auto")
    if card is None or not card.conditioned:
        model = "none" if card is None else card.name
        raise UsageError(f"model {model} takes no {name}: leave out --{name}, or choose a conditioned model")
    return float(value)


def _check_output(format: VideoFormat) -> None:
    if max(format.width, format.height) > MAX_SIDE_PX or format.width * format.height > MAX_PIXELS:
        raise EnhanceError(
            f"the enhanced picture would be {format.width}x{format.height}; the limit is {MAX_SIDE_PX} pixels a side "
            f"and {MAX_PIXELS >> 20} megapixels: use a smaller --scale"
        )
