"""Flicker: what changes between the frames of a video and doesn't in its reference.

Two measures, because either can be fooled: a blurred video has little warping error, and a video that is wrong in the
same way all the time has no difference error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamer.motion import FlowMeter, moved, visible

if TYPE_CHECKING:
    from streamer.motion import Flow

    Luma = npt.NDArray[np.float64]

VISIBLE_MIN = 0.1
"""A pair of frames of which less is visible in both has no motion to follow: a cut."""

SIDE_MIN = 32
"""Of pictures in which motion is looked for: the flow fails in smaller ones."""


class FlickerMeter:
    """Difference error and warping error, means over pairs of neighbouring frames.

    Difference error: the mean of |(d1 - d0) - (r1 - r0)| over all pixels, with d the distorted and r the reference
    video, in 8-bit code values.

    Warping error: Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018, equation 6: the mean of
    (d0(x) - d1(x + f(x)))^2 over the pixels x that both frames show, for values from 0 to 1. The flow f is that of the
    reference, by DIS (Kroeger et al., ECCV 2016) instead of a network; pixels where it and the flow back disagree
    (Ruder et al., "Artistic style transfer for videos", 2016, equation 4) are taken for covered. Cuts are left out, and
    pictures with a side below SIDE_MIN.
    """

    def __init__(self, peak: float) -> None:
        self._peak = peak
        self._last: tuple[Luma, Luma] | None = None
        self._flows = FlowMeter()
        self._differences: list[float] = []
        self._warped: list[tuple[float, float]] = []

    def add(self, reference: Luma, distorted: Luma) -> None:
        """Takes the next pair: code values [height, width] on the reference's scale."""
        if self._last is not None:
            before, before_distorted = self._last
            change = (distorted - before_distorted) - (reference - before)
            self._differences.append(float(np.mean(np.abs(change))) * 255 / self._peak)
            if min(reference.shape) >= SIDE_MIN:
                self._follow(before, reference, before_distorted, distorted)
        self._last = reference, distorted

    @property
    def difference_error(self) -> float | None:
        """In 8-bit code values; None for a single frame."""
        return _mean(self._differences)

    @property
    def warping_error(self) -> float | None:
        """Of the distorted video, for values from 0 to 1; None without two frames of one scene, or of that size."""
        return _mean([distorted for distorted, _ in self._warped])

    @property
    def reference_warping_error(self) -> float | None:
        """The same of the reference: its noise, and what the flow gets wrong."""
        return _mean([reference for _, reference in self._warped])

    def _follow(self, before: Luma, reference: Luma, before_distorted: Luma, distorted: Luma) -> None:
        flow, visible = self._motion(before, reference)
        if np.mean(visible) >= VISIBLE_MIN:
            own = self._warping_error(before_distorted, distorted, flow, visible)
            self._warped.append((own, self._warping_error(before, reference, flow, visible)))

    def _motion(self, before: Luma, after: Luma) -> tuple[Flow, npt.NDArray[np.bool_]]:
        """Flow [height, width, 2] in px from a frame to the next, and where it can be trusted."""
        first, second = (np.rint(luma * (255 / self._peak)).astype(np.uint8) for luma in (before, after))
        there = self._flows.flow(first, second)
        return there, visible(there, self._flows.flow(second, first))

    def _warping_error(self, before: Luma, after: Luma, flow: Flow, visible: npt.NDArray[np.bool_]) -> float:
        error = (before - moved(after, flow)) / self._peak
        return float(np.mean(np.square(error[visible])))


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
