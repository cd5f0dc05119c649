"""How the frames of one stream are given to an engine: whole or in tiles, with their chroma or without."""

from __future__ import annotations

from dataclasses import dataclass

import engines
from onnx_models.cards import ModelCard
from streamer.color import ChromaScaler
from streamer.frame import VideoFormat
from streamer.tiling import TilePlan, plan_tiles

MAX_TILE_PX = 1 << 20
"""On a CPU larger frames are cut into tiles, which bounds the memory and keeps it in the processor's caches."""
MIN_TILE_PX = 1 << 16
"""Smaller tiles than these are not tried where memory runs out: most of each would be overlap."""
_LARGEST_HALF = 0.75
"""Of the pixels: half of them, and the overlap."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """One engine, and what it is given."""

    option: engines.EngineOption
    plan: TilePlan
    request: engines.EngineRequest

    @property
    def is_whole(self) -> bool:
        """Whether a frame is one tile."""
        return len(self.plan.tiles) == 1

    def __str__(self) -> str:
        """As messages call the engine."""
        return str(self.option)


@dataclass(frozen=True, slots=True)
class Fitter:
    """Fits frames of one format to engines for one model.

    An engine on a GPU takes whole frames, and enlarges their chroma too, so that a frame costs the CPU no more than
    copies. `max_tile_px` limits the tiles on all engines; None: MAX_TILE_PX on a CPU, and none on a GPU.
    """

    card: ModelCard
    format: VideoFormat
    max_tile_px: int | None = None

    def fit(self, option: engines.EngineOption) -> Fitting:
        """What this engine would be given."""
        limit = self.max_tile_px
        if limit is None and not option.on_gpu:
            limit = MAX_TILE_PX
        return self._fitting(option, limit)

    def smaller(self, fitting: Fitting) -> Fitting | None:
        """The same in tiles of about half the size, for an engine that ran out of memory; None below MIN_TILE_PX."""
        pixels = fitting.plan.tile_width * fitting.plan.tile_height
        if pixels // 2 < MIN_TILE_PX:
            return None
        return self._fitting(fitting.option, int(pixels * _LARGEST_HALF))

    def gpu_request(self) -> engines.EngineRequest:
        """For whole frames with their chroma, as they are given to a GPU that has the memory."""
        return self._request(self._plan(None), on_gpu=True)

    def _fitting(self, option: engines.EngineOption, max_px: int | None) -> Fitting:
        plan = self._plan(max_px)
        return Fitting(option, plan, option.applied_to(self._request(plan, on_gpu=option.on_gpu)))

    def _plan(self, max_px: int | None) -> TilePlan:
        width, height, multiple_of = self.format.width, self.format.height, self.card.multiple_of
        if max_px is None:
            max_px = (width + multiple_of) * (height + multiple_of)
        return plan_tiles(width, height, halo=self.card.halo_px, multiple_of=multiple_of, max_px=max_px)

    def _request(self, plan: TilePlan, *, on_gpu: bool) -> engines.EngineRequest:
        chroma = self._filter() if on_gpu and len(plan.tiles) == 1 else None
        bits = self.format.layout.bits
        return engines.EngineRequest(self.card.path, plan.tile_width, plan.tile_height, bits, chroma=chroma)

    def _filter(self) -> engines.ChromaFilter | None:
        """None where there is no chroma, or nothing to be done to it."""
        if self.format.layout.planes == 1 or self.card.scale == 1:
            return None
        return ChromaScaler(self.format.layout, self.format.color, self.card.scale).filter
