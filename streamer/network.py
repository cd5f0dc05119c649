"""One model, made ready for the frames of a stream: how they are cut for it, and which engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import engines
from onnx_models.cards import ModelCard, verify
from streamer.frame import Plane, VideoFormat
from streamer.runner import Runner
from streamer.tiling import Tile, plan_tiles


class Network:
    """Runs one model on luma planes, in tiles where they are large. For one thread, apart from `open`."""

    def __init__(self, card: ModelCard, runner: Runner, max_tile_px: int) -> None:
        self.card = card
        self.runner = runner
        self.flying = 0
        """Tiles in flight."""
        self._max_tile_px = max_tile_px

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
        return self._plan.tiles

    @property
    def conditioned(self) -> bool:
        """Whether it takes the inputs `level` and `noise`."""
        return any(spec.name == "level" for spec in self.engine.inputs)

    def open(self, format: VideoFormat, on_done: Callable[[], None] | None = None) -> None:
        """Opens the engine for tiles of this format; see `engines.Engine.on_done`. Raises CardError or EngineError."""
        verify(self.card)
        self._plan = plan_tiles(
            format.width,
            format.height,
            halo=self.card.halo_px,
            multiple_of=self.card.multiple_of,
            max_px=self._max_tile_px,
        )
        self.runner.open(self._plan, format.layout.bits, on_done)

    def submit(self, luma: Plane, tile: Tile, controls: Mapping[str, Any]) -> engines.Ticket:
        """Starts one tile of a frame; `controls` are the other inputs."""
        ticket = self.engine.submit({"luma": self._plan.cut(luma, tile)[None, None], **controls})
        self.flying += 1
        return ticket

    def collect(self, ticket: engines.Ticket, tile: Tile, into: Plane | None) -> float:
        """Waits for a tile and pastes it (None: nowhere); gives its latency over the number of slots, in ns."""
        self.flying -= 1
        enhanced = self.engine.collect(ticket)["enhanced"][0, 0]
        if into is not None:
            self._plan.paste(enhanced, tile, self.card.scale, into)
        return self.engine.latency_ns / self.engine.slots

    def close(self) -> None:
        self.flying = 0
        self.runner.close()
