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
from streamer.level import LevelMeter
from streamer.pool import PlanePool
from streamer.tiling import Tile, TilePlan, plan_tiles

log = logging.getLogger(__name__)

MAX_STRENGTH = 1.5
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

    A conditioned model is told how degraded the stream is: `level` from 0 (clean) to 1 (heavy), or None to measure it.
    Raises UsageError for numbers out of range, and for a level given to a model that takes none.
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
        max_tile_px: int = MAX_TILE_PX,
        threads: int | None = None,
    ) -> None:
        self.card = card
        self.strength = check_strength(strength)
        self.level: float | None = None
        """What the last frame's inferences were told; None before the first, and for models that take no level."""
        self._fixed_level = None if level is None else check_level(level, card)
        self._meter = LevelMeter()
        self._levels_sum, self._levels_count = 0.0, 0
        self._engine_name = engine
        self._device = device
        self._max_tile_px = max_tile_px
        self._threads = threads
        self._engine: engines.Engine | None = None
        self._in_flight: deque[_Inference] = deque()
        self._pool = PlanePool()

    @property
    def engine_name(self) -> str:
        """The back end that runs or ran; before `open`, the one asked for."""
        return self._engine_name

    @property
    def planes_allocated(self) -> int:
        """Picture buffers ever allocated; constant in the steady state."""
        return self._pool.allocated

    @property
    def mean_level(self) -> float | None:
        """The mean of `level` over all frames so far; None if there was none."""
        return self._levels_sum / self._levels_count if self._levels_count else None

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
        self._engine = self._open_engine(format, self._plan)
        self._conditioned = any(spec.name == "level" for spec in self._engine.inputs)
        self._meter.reset()
        return self._output_format

    def process(self, frame: Frame) -> Iterator[Frame]:
        assert self._engine is not None
        tiles = self._plan.tiles
        planes = self._pool.planes(frame.format.layout, self._output_format.width, self._output_format.height)
        controls = {"strength": np.array([self.strength], np.float32)}
        if self._conditioned:
            controls["level"] = np.array([self._level_for(frame)], np.float32)
        for tile in tiles:
            if len(self._in_flight) == self._engine.slots:
                yield from self._collect()
            luma = self._plan.cut(frame.planes[0], tile)[None, None]
            ticket = self._engine.submit({"luma": luma, **controls})
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
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _open_engine(self, format: VideoFormat, plan: TilePlan) -> engines.Engine:
        engine = engines.open_engine(
            self.card.path,
            height=plan.tile_height,
            width=plan.tile_width,
            bits=format.layout.bits,
            engine=self._engine_name,
            device=self._device,
            threads=self._threads,
        )
        self._engine_name = engine.name
        return engine

    def _level_for(self, frame: Frame) -> float:
        """One level for all tiles of a frame."""
        if frame.discontinuity:
            self._meter.reset()
        level = self._meter.update(frame) if self._fixed_level is None else self._fixed_level
        self.level = level
        self._levels_sum += level
        self._levels_count += 1
        return level

    def _collect(self) -> Iterator[Frame]:
        assert self._engine is not None
        oldest = self._in_flight.popleft()
        enhanced = self._engine.collect(oldest.ticket)["enhanced"][0, 0]
        self._plan.paste(enhanced, oldest.tile, self.card.scale, oldest.planes[0])
        if oldest.last:
            for plane in oldest.planes:
                plane.flags.writeable = False
            yield replace(oldest.frame, planes=oldest.planes, format=self._output_format)


def check_strength(strength: float) -> float:
    """`strength` if it is a number from 0 to MAX_STRENGTH. Raises UsageError otherwise."""
    if not (math.isfinite(strength) and 0 <= strength <= MAX_STRENGTH):
        raise UsageError(f"strength {strength} is out of range: 0 (interpolation) to {MAX_STRENGTH}, 1 is the network")
    return float(strength)


def check_level(level: float, card: ModelCard | None) -> float:
    """`level` if it is a number from 0 to 1 that the model takes. Raises UsageError otherwise."""
    if not (math.isfinite(level) and 0 <= level <= 1):
        raise UsageError(f"level {level} is out of range: 0 (clean) to 1 (heavily degraded), or auto")
    if card is None or not card.conditioned:
        name = "none" if card is None else card.name
        raise UsageError(f"model {name} takes no level: leave out --level, or choose a conditioned model")
    return float(level)


def _check_output(format: VideoFormat) -> None:
    if max(format.width, format.height) > MAX_SIDE_PX or format.width * format.height > MAX_PIXELS:
        raise EnhanceError(
            f"the enhanced picture would be {format.width}x{format.height}; the limit is {MAX_SIDE_PX} pixels a side "
            f"and {MAX_PIXELS >> 20} megapixels: use a smaller --scale"
        )
