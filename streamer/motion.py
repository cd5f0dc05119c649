"""Optical flow: where pixels went, where it can be trusted, and pictures moved along it.

DIS: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Flow = npt.NDArray[np.float32]
    Gray = npt.NDArray[np.uint8]
    Map = npt.NDArray[np.float32]


SIDE_MAX = 320
"""Longest side of the pictures in which a `Tracker` looks for motion."""

_FEWEST_PX = 16
"""Sides that the flow's patches need."""


class FlowMeter:
    """DIS flow at one preset of OpenCV, with what it needs in memory. For one thread."""

    def __init__(self, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) -> None:
        self._dis = cv2.DISOpticalFlow.create(preset)

    def flow(self, first: Gray, second: Gray) -> Flow:
        """[height, width, 2]: where each pixel of `first` lies in `second`, relative to itself, x and y in px."""
        found = self._dis.calc(first, second, None)  # type: ignore[call-overload]  # OpenCV's stub takes no None
        return np.asarray(found, np.float32)


class Tracker:
    """Follows a stream's luma in small pictures. For one thread."""

    def __init__(self) -> None:
        self._flows = FlowMeter(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: Gray | None = None

    def update(self, luma: Map) -> tuple[Flow, npt.NDArray[np.bool_]] | None:
        """Takes the next frame [h, w] in 8-bit codes; where its pixels were in the last one, and whether they were.

        The flow is that of the small picture, in its pixels; None for the first frame, and where a side is too small.
        """
        small = _small(luma)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape or min(small.shape) < _FEWEST_PX:
            return None
        there = self._flows.flow(small, last)
        return there, visible(there, self._flows.flow(last, small))


def resized(flow: Flow, size: tuple[int, int]) -> Flow:
    """A flow for pictures of another size (height, width)."""
    factors: Any = (size[1] / flow.shape[1], size[0] / flow.shape[0], 0.0, 0.0)  # one for each channel
    return np.asarray(cv2.resize(cv2.multiply(flow, factors), size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _small(luma: Map) -> Gray:
    factor = min(1.0, SIDE_MAX / max(luma.shape))
    size = (max(1, round(luma.shape[1] * factor)), max(1, round(luma.shape[0] * factor)))
    return np.asarray(np.rint(cv2.resize(luma, size, interpolation=cv2.INTER_AREA)), np.uint8)


def visible(there: Flow, back: Flow) -> npt.NDArray[np.bool_]:
    """Where both pictures show the same: the flow back returns, and stays inside.

    Ruder et al., "Artistic style transfer for videos", GCPR 2016, equation 4.
    """
    (x, y), (back_x, back_y) = cv2.split(there), cv2.split(moved(back, there))
    apart = np.square(x + back_x) + np.square(y + back_y)
    lengths = np.square(x) + np.square(y) + np.square(back_x) + np.square(back_y)
    height, width = x.shape
    columns, rows = cv2.split(_grid(height, width))
    columns, rows = columns + x, rows + y
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    return np.asarray(inside & (apart <= 0.01 * lengths + 0.5), np.bool_)


def moved(values: npt.NDArray[Any], flow: Flow) -> npt.NDArray[Any]:
    """`values` [height, width(, n)] taken from where the flow points."""
    places = cv2.add(flow, _grid(*flow.shape[:2]))
    # OpenCV's stub takes no None, which says that `places` has both coordinates.
    found = cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found, values.dtype)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> Flow:
    """The place [height, width, 2] of every pixel, x and y."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    grid.flags.writeable = False
    return grid
