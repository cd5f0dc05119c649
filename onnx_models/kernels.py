"""Interpolation kernels, of arrays of distances in samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]

CUBIC_RADIUS = 2
LANCZOS_RADIUS = 3
AREA_RADIUS = 0.5


def cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution with a = -1/2 (Catmull-Rom), zero from distance 2 on.

    Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans. ASSP 1981,
    equation 15. At multiples of 1/4 the values are multiples of 1/128.
    """
    x = np.abs(distance)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < CUBIC_RADIUS, far, 0.0))


def lanczos(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sinc windowed by its own main lobe, three lobes wide (Lanczos, after Duchon 1979)."""
    inside = np.abs(distance) < LANCZOS_RADIUS
    return np.where(inside, np.sinc(distance) * np.sinc(distance / LANCZOS_RADIUS), 0.0)


def triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation."""
    return np.asarray(np.maximum(0.0, 1 - np.abs(distance)))


def box(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averaging over one sample."""
    return np.where(np.abs(distance) <= AREA_RADIUS, 1.0, 0.0)


def phase_taps(scale: int) -> NDArray[np.float64]:
    """Cubic weights `[scale, 5]` of the input pixels at -2..2 for each output pixel of one.

    Half-pixel convention: output pixel i of an input pixel lies at (i + 1/2) / scale - 1/2.
    """
    positions: NDArray[np.float64] = (np.arange(scale) + 0.5) / scale - 0.5
    offsets = np.arange(-CUBIC_RADIUS, CUBIC_RADIUS + 1)
    return cubic(positions[:, None] - offsets[None])


def reduction_taps(kernel: Kernel, scale: int) -> tuple[NDArray[np.float32], int]:
    """Antialiased reduction as (taps, anchor): the kernel stretched by `scale`, sum 1.

    Output sample i lies at input position `scale * i + (scale - 1) / 2`, so filtering with the
    taps around their anchor and taking every `scale`-th sample from 0 reduces a picture.
    """
    reach = LANCZOS_RADIUS * scale
    offsets = np.arange(-reach, reach + scale)
    taps: NDArray[np.float64] = kernel((offsets - (scale - 1) / 2) / scale)
    used = np.flatnonzero(taps)
    offsets, taps = offsets[used[0] : used[-1] + 1], taps[used[0] : used[-1] + 1]
    normal = np.asarray(taps / taps.sum(), np.float32)
    return normal, int(-offsets[0])
