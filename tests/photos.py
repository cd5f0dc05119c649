"""Synthesised photographs for the tests of training."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(seed: int, height: int = 160, width: int = 200) -> NDArray[np.uint8]:
    """Overlapping ellipses: edges, flat areas, some colour."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), 120, np.uint8)
    for _ in range(40):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(3, 30)), int(rng.integers(3, 30)))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return canvas
