"""The stabilise stage: static places average over time, moving ones stay as they are; causal, with O(1) state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import cv2
import numpy as np

from onnx_models.gate import CELL
from streamer.blend import history_of
from streamer.cuts import CutDetector
from streamer.errors import EnhanceError, UsageError
from streamer.frame import Frame, Plane, VideoFormat
from streamer.gate import Gate, Look
from streamer.motion import Tracker
from streamer.pool import PlanePool

OFF = "off"
ADAPTIVE = "adaptive"
MODES = (OFF, ADAPTIVE, "flow")
"""How to stabilise; `off` is for callers that have a choice: a stage that is off only passes frames on."""
CUTS = "scene cuts"


class StabiliseStage:
    """Blends every frame with its stabilised history as far as the `Gate` lets it; see there.

    Works on frames as `EnhanceStage` gives them: the luma of their `source` steers the gate; a frame without one is its
    own. `strength` scales how much history counts, 0 (none) to 1. It and `mode` may be set while running, from any
    thread. Frames leave without their source unless the stage `keeps_source`, for a preview.

    Chroma follows with the gains of luma, because it shows hardly any motion that luma doesn't, and its own gate would
    cost as much as luma's: half the pixels of 4:2:0 blend, nothing is judged. No sample is further from the frame's own
    than the limit of the gate, so that what moves in chroma alone is tinted for a few frames at most.

    Frames that an engine has stabilised pass; see `streamer.device_stabiliser`.

    History ends at a scene cut, at a frame's `discontinuity` (a lost and found input has it) and when the format of the
    frames or of their source changes. Dropped frames make history older, not invalid.
    """

    name = "stabilise"

    def __init__(self, mode: str = ADAPTIVE, *, strength: float = 1.0, keeps_source: bool = False) -> None:
        self.strength = check_stabilise_strength(strength)
        self.mode = check_stabilise_mode(mode)
        self._keeps_source = keeps_source
        self._cuts = 0
        self._pool = PlanePool()
        self._history: _History | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Scene cuts seen so far."""
        return {CUTS: self._cuts} if self._cuts else {}

    @property
    def nbytes(self) -> int:
        """Memory of the state: 2 bytes a sample (4 above 8 bits), and what the gate holds; 0 before the first frame."""
        return 0 if self._history is None else self._history.nbytes

    def open(self, format: VideoFormat) -> VideoFormat:
        cv2.setNumThreads(1)  # the cores belong to the network, decoder and encoder
        self.reset()
        return format

    def process(self, frame: Frame) -> Iterator[Frame]:
        mode = self.mode
        kept = frame.source if self._keeps_source else None
        if mode == OFF or frame.stabilised:
            self.reset()
            yield replace(frame, source=kept)
            return
        source = (frame.source or frame).planes[0]
        history = self._history
        with_flow = mode == "flow"
        if history is None or frame.discontinuity or not history.fits(frame.format, source, with_flow=with_flow):
            history = self._history = _History(frame.format, source, with_flow=with_flow)
        planes = self._pool.planes(frame.format.layout, frame.format.width, frame.format.height)
        self._cuts += history.blend(frame, source, planes, self.strength)
        for plane in planes:
            plane.flags.writeable = False
        yield replace(frame, planes=planes, source=kept)

    def flush(self) -> Iterator[Frame]:
        return iter(())

    def reset(self) -> None:
        self._history = None

    def close(self) -> None:
        self.reset()


class _History:
    """What was stabilised so far, in one format: 2 bytes a sample (4 above 8 bits), and the gate's state."""

    def __init__(self, format: VideoFormat, source: Plane, *, with_flow: bool) -> None:
        self._format = format
        self._source = source
        scale = _scale(format, source)
        reduce = 2 if scale == 1 else 1
        self._gate = Gate(reduce)
        self._block = CELL * reduce * scale
        self._cuts = CutDetector()
        self._tracker = Tracker() if with_flow else None
        self._index: int | None = None
        layout = format.layout
        self._planes = [history_of(shape, layout.bits) for shape in layout.shapes(format.width, format.height)]
        luma = (self._block, self._block)
        chroma = (self._block >> layout.log2_chroma_w, self._block >> layout.log2_chroma_h)
        self._blocks = [luma, *[chroma] * (layout.planes - 1)]

    @property
    def nbytes(self) -> int:
        return self._gate.nbytes + sum(plane.nbytes for plane in self._planes)

    def fits(self, format: VideoFormat, source: Plane, *, with_flow: bool) -> bool:
        """Whether a frame of this format and source goes on with this history, in this mode."""
        same = (format, source.shape, source.dtype) == (self._format, self._source.shape, self._source.dtype)
        return same and with_flow == (self._tracker is not None)

    def blend(self, frame: Frame, source: Plane, into: tuple[Plane, ...], strength: float) -> bool:
        """Fills `into`; whether a new scene began."""
        look = self._gate.look(source, frame.format.layout.bits)
        cut = self._cuts.update(look.cells)
        if cut:
            self._gate.reset()
        self._follow(look)
        elapsed = 1 if self._index is None else max(1, frame.index - self._index)
        repeated = self._index is not None and np.array_equal(source, self._source)
        verdict = self._gate.update(look, elapsed=elapsed, repeated=repeated)
        self._source, self._index = source, frame.index
        keep = np.float32(strength) * (1 - verdict.gain)
        for plane, new, block, target in zip(self._planes, frame.planes, self._blocks, into, strict=True):
            plane.blend(new, keep, block, verdict.limit, target)
        return cut

    def _follow(self, look: Look) -> None:
        found = None if self._tracker is None else self._tracker.update(look.base)
        flow = None if found is None else self._gate.follow(look, *found)
        if flow is not None:
            for plane in self._planes:
                plane.follow(flow)


def check_stabilise_mode(mode: str) -> str:
    """`mode` if it is one of MODES. Raises UsageError otherwise."""
    if mode not in MODES:
        raise UsageError(f"there is no way {mode!r} to stabilise: use one of {', '.join(MODES)}, or auto")
    return mode


def check_stabilise_strength(strength: float) -> float:
    """`strength` if it is a number from 0 to 1. Raises UsageError otherwise."""
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise UsageError(f"stabilise strength {strength} is out of range: 0 (every frame for itself) to 1")
    return float(strength)


def _scale(format: VideoFormat, source: Plane) -> int:
    """How many times larger frames are than their source. Raises StreamerError if that isn't a whole number."""
    height, width = source.shape
    scale: int = format.width // width
    if (format.width, format.height) != (scale * width, scale * height):
        raise EnhanceError(
            f"can't stabilise frames of {format.width}x{format.height} by a source of {width}x{height}: the "
            "enlargement must be a whole number"
        )
    return scale
