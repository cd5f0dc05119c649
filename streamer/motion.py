"""Optical flow: where pixels went, where it can be trusted, and pictures moved along it.

DIS: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
"""

from __future__ import annotations

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

_FEWEST_PX = 32
"""Sides that the flow needs: OpenCV 5 reads beyond wide pictures with sides below, and crashes."""
_FAR = 1e6
"""A flow that returns to nowhere."""


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

        The flow is that of the small picture, in its pixels; whether they were there is said for 2 x 2 of them at once.
        None for the first frame, and where a side is too small.
        """
        small = _small(luma)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape or min(small.shape) < _FEWEST_PX:
            return None
        there, back = self._flows.flow(small, last), self._flows.flow(last, small)
        half = (-(-small.shape[0] // 2), -(-small.shape[1] // 2))
        return there, visible(resized(there, half), resized(back, half))


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
    returning = moved(back, there, outside=_FAR)
    apart, lengths = _squares(there + returning), _squares(there) + _squares(returning)
    return np.asarray(apart <= 0.01 * lengths + 0.5, np.bool_)


def moved(values: npt.NDArray[Any], flow: Flow, outside: float | None = None) -> npt.NDArray[Any]:
    """`values` [height, width(, n)] where the flow points; beyond the edges, those of the edge, or `outside`."""
    how = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP
    edge = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    fill = (outside or 0.0,) * 4
    # OpenCV's stub takes no None, which says that `flow` has both coordinates.
    found = cv2.remap(values, flow, None, how, borderMode=edge, borderValue=fill)  # type: ignore[call-overload]
    return np.asarray(found, values.dtype)


def _squares(flow: Flow) -> Map:
    x, y = cv2.split(flow)
    return np.asarray(x * x + y * y, np.float32)
