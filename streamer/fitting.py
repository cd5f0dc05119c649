"""How the frames of one stream are given to an engine: whole or in tiles, with their chroma or without."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import engines
from onnx_models.cards import ModelCard
from onnx_models.gate import CELL
from streamer.color import ChromaScaler
from streamer.frame import PixelLayout, VideoFormat
from streamer.tiling import TilePlan, plan_tiles

MAX_TILE_PX = 1 << 20
"""On a CPU larger frames are cut into tiles, which bounds the memory and keeps it in the processor's caches."""
MIN_TILE_PX = 1 << 16
"""Smaller tiles than these are not tried where memory runs out: most of each would be overlap."""
_STABILISED_BITS = 8
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
    copies. `max_tile_px` limits the tiles on all engines; None: MAX_TILE_PX or what the card
    says on a CPU, and none on a GPU.

    With `may_stabilise`, an engine that keeps its state gets the stabiliser behind the network, if it takes whole
    frames of 8 bits; where their sides are no multiples of the gate's cells, the last row and column are repeated.
    """

    card: ModelCard
    format: VideoFormat
    max_tile_px: int | None = None
    may_stabilise: bool = False

    def fit(self, option: engines.EngineOption) -> Fitting:
        """What this engine would be given."""
        limit = self.max_tile_px
        if limit is None and not option.on_gpu:
            limit = min(MAX_TILE_PX, self.card.tile_px_max or MAX_TILE_PX)
        return self._fitting(option, limit)

    def unstabilised(self, fitting: Fitting) -> Fitting | None:
        """The same without the stabiliser behind the network; None if there is none."""
        return None if fitting.request.follower is None else replace(self, may_stabilise=False).fit(fitting.option)

    def smaller(self, fitting: Fitting) -> Fitting | None:
        """The same in tiles of about half the size, for an engine that ran out of memory; None below MIN_TILE_PX."""
        pixels = fitting.plan.tile_width * fitting.plan.tile_height
        if pixels // 2 < MIN_TILE_PX:
            return None
        return self._fitting(fitting.option, int(pixels * _LARGEST_HALF))

    def gpu_request(self) -> engines.EngineRequest:
        """For whole frames with their chroma, as they are given to a GPU that has the memory."""
        return self._request(*self._plan_for(None, keeps_state=True), on_gpu=True)

    def _fitting(self, option: engines.EngineOption, max_px: int | None) -> Fitting:
        plan, stabilised = self._plan_for(max_px, keeps_state=option.keeps_state)
        return Fitting(option, plan, option.applied_to(self._request(plan, stabilised, on_gpu=option.on_gpu)))

    def _plan_for(self, max_px: int | None, *, keeps_state: bool) -> tuple[TilePlan, bool]:
        """How frames are cut, and whether they can be stabilised so."""
        if self.may_stabilise and keeps_state and self.format.layout.bits == _STABILISED_BITS:
            block = CELL * (2 if self.card.scale == 1 else 1)
            plan = self._plan(max_px, math.lcm(block, self.card.multiple_of))
            if len(plan.tiles) == 1:
                return plan, True
        return self._plan(max_px, self.card.multiple_of), False

    def _plan(self, max_px: int | None, multiple_of: int) -> TilePlan:
        width, height = self.format.width, self.format.height
        if max_px is None:
            max_px = (width + multiple_of) * (height + multiple_of)
        return plan_tiles(width, height, halo=self.card.halo_px, multiple_of=multiple_of, max_px=max_px)

    def _request(self, plan: TilePlan, stabilised: bool, *, on_gpu: bool) -> engines.EngineRequest:
        layout = self.format.layout
        return engines.EngineRequest(
            self.card.path,
            plan.tile_width,
            plan.tile_height,
            layout.bits,
            chroma=self._filter() if on_gpu and len(plan.tiles) == 1 else None,
            follower=_stabiliser(self.card.scale, layout) if stabilised else None,
        )

    def _filter(self) -> engines.ChromaFilter | None:
        """None where there is no chroma, or nothing to be done to it."""
        if self.format.layout.planes == 1 or self.card.scale == 1:
            return None
        return ChromaScaler(self.format.layout, self.format.color, self.card.scale).filter


@cache
def _stabiliser(scale: int, layout: PixelLayout) -> bytes:
    """The graph that goes behind a network of this scale, as an ONNX file's content."""
    from onnx_models.stabiliser import build_stabiliser  # only here, because it loads onnx

    chroma = (layout.log2_chroma_h, layout.log2_chroma_w) if layout.planes > 1 else None
    content: bytes = build_stabiliser(scale, chroma).SerializeToString()
    return content
