"""One model, made ready for the frames of a stream: how they are given to it, and which engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import engines
from onnx_models.cards import ModelCard, verify
from streamer.fitting import Fitter
from streamer.frame import Plane, VideoFormat
from streamer.runner import Runner
from streamer.tiling import Tile

_CHROMA = ("u", "v")
_STABILISED = "stabilised"


class Network:
    """Runs one model on frames, in tiles where they are large. For one thread, apart from `open`."""

    def __init__(
        self, card: ModelCard, runner: Runner, max_tile_px: int | None = None, *, may_stabilise: bool = False
    ) -> None:
        """Store what to run; see `streamer.fitting.Fitter` for `max_tile_px` and `may_stabilise`."""
        self.card = card
        self.runner = runner
        self.flying = 0
        """Tiles in flight."""
        self._max_tile_px, self._may_stabilise = max_tile_px, may_stabilise

    @property
    def engine(self) -> engines.Engine:
        """The one that takes frames now."""
        return self.runner.engine

    @property
    def is_full(self) -> bool:
        """Whether a tile must be collected before the next is submitted."""
        return self.flying >= self.engine.slots

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Of a frame that is submitted now."""
        return self.runner.plan.tiles

    @property
    def conditioned(self) -> bool:
        """Whether it takes the inputs `level` and `noise`."""
        return self._takes("level")

    @property
    def gives_chroma(self) -> bool:
        """Whether it enlarges chroma too; then a frame is one tile."""
        return self._takes("u")

    def make_ready(self, format: VideoFormat, on_done: Callable[[], None] | None = None, *, may_build: bool) -> bool:
        """Does beforehand, on any thread, what takes long in `open`; see `Runner.make_ready`. Raises CardError, too."""
        verify(self.card)
        return self.runner.make_ready(Fitter(self.card, format, self._max_tile_px), on_done, may_build=may_build)

    @property
    def stabilises(self) -> bool:
        """Whether the stabiliser runs behind it on its engine, which then wants to be told more of every frame."""
        return any(spec.name == _STABILISED for spec in self.engine.outputs)

    def open(self, format: VideoFormat, on_done: Callable[[], None] | None = None) -> None:
        """Opens the engine for frames of this format; see `engines.Engine.on_done`. Raises CardError or EngineError."""
        verify(self.card)
        self.runner.open(Fitter(self.card, format, self._max_tile_px, self._may_stabilise), on_done)

    def submit(self, planes: tuple[Plane, ...], tile: Tile, controls: Mapping[str, Any]) -> engines.Ticket:
        """Starts one tile of a frame with these planes; `controls` are the other inputs."""
        feeds = {"luma": self.runner.plan.cut(planes[0], tile)[None, None], **controls}
        if self.gives_chroma:
            shapes = {spec.name: spec.shape[2:] for spec in self.engine.inputs}
            feeds |= {
                name: _padded(plane, shapes[name])[None, None] for name, plane in zip(_CHROMA, planes[1:], strict=True)
            }
        ticket = self.engine.submit(feeds)
        self.flying += 1
        return ticket

    def collect(self, ticket: engines.Ticket, tile: Tile, into: tuple[Plane, ...] | None) -> float:
        """Waits for a tile and pastes it (None: nowhere); gives its latency over the number of slots, in ns."""
        self.flying -= 1
        found = self.engine.collect(ticket)
        if into is not None:
            kind = _STABILISED if self.stabilises else "enhanced"
            self.runner.plan.paste(found[kind][0, 0], tile, self.card.scale, into[0])
            if self.gives_chroma:
                for name, plane in zip(_CHROMA, into[1:], strict=True):
                    plane[...] = found[f"{name}_{kind}"][0, 0, : plane.shape[0], : plane.shape[1]]
        return self.engine.latency_ns / self.engine.slots

    def replace_failed(self, error: engines.InferenceError) -> None:
        """Gives up the engine and all that is in flight in it; see `Runner.replace_failed`."""
        self.flying = 0
        self.runner.replace_failed(error)

    def close(self) -> None:
        self.flying = 0
        self.runner.close()

    def _takes(self, name: str) -> bool:
        return any(spec.name == name for spec in self.engine.inputs)


def _padded(plane: Plane, shape: tuple[int, ...]) -> Plane:
    """The plane, with its last row and column repeated where the network's sizes are multiples of something."""
    missing = [(0, wanted - have) for wanted, have in zip(shape, plane.shape, strict=True)]
    return np.pad(plane, missing, mode="edge") if any(after for _, after in missing) else plane
