"""Fidelity measures on 8-bit luma, and the interpolations models are compared with."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from onnx_models.kernels import CUBIC_RADIUS, phase_taps

Luma = NDArray[np.uint8]
PSNR_LIMIT_DB = 100.0
SSIM_WINDOW_PX = 11


def psnr(picture: Luma, reference: Luma, shave_px: int = 0) -> float:
    """Peak signal-to-noise ratio in dB against a peak of 255; identical pictures give 100.

    Args:
        picture, reference: uint8 `[H,W]` of one size.
        shave_px: border left out.

    Raises:
        ValueError: the sizes differ.
    """
    a, b = _inner(picture, shave_px), _inner(reference, shave_px)
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {picture.shape} and {reference.shape}")
    mse = float(np.mean((a - b) ** 2))
    return PSNR_LIMIT_DB if mse == 0 else min(PSNR_LIMIT_DB, 10 * math.log10(255**2 / mse))


def ssim(picture: Luma, reference: Luma, shave_px: int = 0) -> float:
    """Structural similarity, mean over the picture, at most 1.

    Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE Trans. Image Processing 2004: Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, only
    windows that lie inside the picture.

    Raises:
        ValueError: the sizes differ, or a side is below 11 pixels after shaving.
    """
    a, b = _inner(picture, shave_px), _inner(reference, shave_px)
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {picture.shape} and {reference.shape}")
    if min(a.shape) < SSIM_WINDOW_PX:
        raise ValueError(f"{a.shape[1]}x{a.shape[0]} px is smaller than the window of {SSIM_WINDOW_PX}")

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = slice(SSIM_WINDOW_PX // 2, -(SSIM_WINDOW_PX // 2))
        blurred = cv2.GaussianBlur(x, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), 1.5)
        return np.asarray(blurred[inside, inside], np.float64)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(np.mean(top / bottom))


def _inner(picture: Luma, shave_px: int) -> NDArray[np.float64]:
    height, width = picture.shape
    return picture[shave_px : height - shave_px, shave_px : width - shave_px].astype(np.float64)


def bicubic(luma: Luma, scale: int) -> Luma:
    """Catmull-Rom interpolation (Keys 1981, a = -1/2), borders replicated, rounded half to even.

    Exact: sums in float64, so the networks at strength 0 must give the same codes.
    """
    if scale == 1:
        return luma.copy()
    rows = _interpolate_rows(luma.astype(np.float64), scale)
    both = _interpolate_rows(rows.T, scale).T
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def _interpolate_rows(values: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    padded = np.pad(values, ((CUBIC_RADIUS, CUBIC_RADIUS), (0, 0)), mode="edge")
    out = np.empty((values.shape[0] * scale, values.shape[1]))
    for phase, taps in enumerate(phase_taps(scale)):
        out[phase::scale] = sum(tap * padded[k : k + len(values)] for k, tap in enumerate(taps))
    return out


def lanczos(luma: Luma, scale: int) -> Luma:
    """OpenCV's INTER_LANCZOS4 interpolation."""
    if scale == 1:
        return luma.copy()
    height, width = luma.shape
    size = (width * scale, height * scale)
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)
