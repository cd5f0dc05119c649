"""Stabilising where the network runs: what the graph behind it must be told of every frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

import engines
from onnx_models.gate import STILL_FRAMES
from streamer.cuts import CutDetector
from streamer.frame import Frame
from streamer.stabiliser import ADAPTIVE, StabiliseStage

_STRENGTH, _ELAPSED, _FIRST, _LEARN = (
    engines.FOLLOWER_PREFIX + name for name in ("strength", "elapsed", "first", "learn")
)


class DeviceStabiliser:
    """Does for an engine that keeps its state what `StabiliseStage` does on the CPU, as that stage is set just now.

    The graph (`onnx_models.stabiliser`) holds the history; here is what it can't see: scene cuts, frames that were
    dropped or repeated, and whether its history is that of the frame before. Where it isn't, or `stage` is not
    "adaptive", a frame is `first`: the graph leaves it as it is, exactly, and the stage gets it, with the history that
    it may have. So frames of which every second one is interpolated are the stage's, all of them. For one thread.
    """

    def __init__(self, stage: StabiliseStage, scale: int) -> None:
        """`scale` is the network's."""
        self.cuts = 0
        """Scene cuts seen so far."""
        self._stage = stage
        self._halvings = 3 if scale == 1 else 2
        self.reset()

    def reset(self) -> None:
        """The next frame begins anew: the one before it went another way, or was damaged."""
        self._engine: engines.Engine | None = None  # that has the history
        self._last: Frame | None = None
        self._detector = CutDetector()
        self._repeats = 0

    def look(self, frame: Frame) -> dict[str, Any]:
        """What the graph is told of the next frame, in the order in which frames go to the network."""
        if self._stage.mode != ADAPTIVE:
            self.reset()
            return _told()
        if frame.discontinuity:
            self.reset()
        last, self._last = self._last, frame
        cut = self._detector.update(_reduced(frame, self._halvings))
        self.cuts += cut
        if last is None or cut:
            self._repeats = 0
            return _told()
        repeated = np.array_equal(frame.planes[0], last.planes[0])
        self._repeats = self._repeats + 1 if repeated else 0
        learns = self._repeats not in range(1, STILL_FRAMES)
        return _told(self._stage.strength, max(1, frame.index - last.index), first=False, learns=learns)

    def told(self, controls: Mapping[str, Any], engine: engines.Engine | None) -> dict[str, Any]:
        """What this engine is told besides the picture; for None, which doesn't stabilise, without what `look` said.

        Call it for every frame that is submitted: an engine that didn't get the last one has no history of it.
        """
        known = {name: value for name, value in controls.items() if not name.startswith(engines.FOLLOWER_PREFIX)}
        before, self._engine = self._engine, engine
        if engine is None:
            return known
        return {**known, **_told(), **(controls if engine is before else {})}


def is_stabilised(controls: Mapping[str, Any]) -> bool:
    """Whether a frame whose network was told this comes out stabilised."""
    return _FIRST in controls and not controls[_FIRST].any()


def _told(strength: float = 0.0, elapsed: int = 1, *, first: bool = True, learns: bool = True) -> dict[str, Any]:
    values = {_STRENGTH: strength, _ELAPSED: elapsed, _FIRST: first, _LEARN: learns}
    return {name: np.array([value], np.float32) for name, value in values.items()}


def _reduced(frame: Frame, halvings: int) -> Any:
    """The luma in the gate's cells, float32. The first halving is in 8 bits, which takes a fraction of the time and
    rounds, as the gate does where the size stays."""
    luma: Any = frame.planes[0]
    for number in range(halvings):
        height, width = luma.shape
        luma = cv2.resize(luma, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
        luma = luma.astype(np.float32) if number == 0 else luma
    return luma
