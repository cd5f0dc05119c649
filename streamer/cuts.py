"""Scene cuts, seen at the first frame of the new scene, from small pictures of it and the frames before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Map = npt.NDArray[np.float32]

WIDTH, HEIGHT = 64, 36
"""Of the small picture, at most."""
CHANGE_MIN = 4.0
"""Least mean change of a cut, in 8-bit codes."""
SURPRISE = 2.5
"""How many times larger than recent changes a cut's is."""
ALIKE = 0.25
"""Pictures whose details correlate by more show the same scene in another light."""
DETAIL = 13
"""Side of the windows that say what a detail is, in px of the small picture."""
FORGET = 0.9
"""How much of the last frames' largest change still counts at the next one."""
_CONTRAST = 1.0
"""Variance in codes squared below which two pictures are alike whatever they show."""


class CutDetector:
    """Compares each frame with the last one, and with the one before that, which undoes flashes.

    A cut changes the picture by much, more than the frames before it did, so that fast cameras are none; and into
    something that looks otherwise, so that flashes, fades and exposure are none.
    """

    def __init__(self) -> None:
        self._last: list[Map] = []
        self._recent = np.inf

    def update(self, cells: Map) -> bool:
        """Takes the next frame's luma [h, w], reduced as one likes, in 8-bit codes; whether a new scene begins."""
        small = _small(cells)
        before, self._last = self._last, [small, *self._last[:1]]
        if not before:
            return False
        change = _change(small, before[0])
        surprising = change > CHANGE_MIN and change > SURPRISE * self._recent
        if surprising and not any(_alike(small, other) for other in before):
            self._last, self._recent = [small], np.inf
            return True
        fading = FORGET * self._recent
        self._recent = max(change, fading) if np.isfinite(fading) else change
        return False


def _change(one: Map, other: Map) -> float:
    return float(np.mean(np.abs(one - other)))


def _alike(one: Map, other: Map) -> bool:
    """Whether two small pictures may show the same scene."""
    a, b = _details(one), _details(other)
    spread = float(np.sqrt((a * a).mean() * (b * b).mean()))
    return float((a * b).mean()) + _CONTRAST > ALIKE * (spread + _CONTRAST)


def _details(small: Map) -> Map:
    """What is left of light that changes slowly from place to place, which different scenes have in common."""
    return small - np.asarray(cv2.blur(small, (DETAIL, DETAIL)), np.float32)


def _small(cells: Map) -> Map:
    size = (min(WIDTH, cells.shape[1]), min(HEIGHT, cells.shape[0]))
    return np.asarray(cv2.resize(cells, size, interpolation=cv2.INTER_AREA), np.float32)
