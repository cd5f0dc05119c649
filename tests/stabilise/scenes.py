"""Small scenes for the stabiliser, and a stage to run them through."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from streamer.frame import Frame, VideoFormat
from streamer.stabiliser import StabiliseStage
from tests.photos import picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Luma = NDArray[np.uint8]
    Light = NDArray[np.float32]


def textured(height: int, width: int, seed: int = 3, contrast: float = 1.0) -> Light:
    """Blobs of all sizes around mid-grey."""
    rng = np.random.default_rng(seed)
    light = np.zeros((height, width), np.float32)
    for sigma, weight in ((1.2, 60.0), (4.0, 160.0), (14.0, 400.0)):
        light += weight * cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), sigma)
    return np.asarray(np.clip(126 + contrast * light, 20, 230), np.float32)


def photographed(height: int, width: int, seed: int = 1) -> Light:
    """Objects, flat and textured ones, as a lens shows them."""
    gray = cv2.cvtColor(picture(seed, height, width), cv2.COLOR_BGR2GRAY).astype(np.float32)
    rough = cv2.GaussianBlur(gray, (0, 0), 12) > np.median(gray)
    grain = np.where(rough, textured(height, width, seed) - 126, 0) * np.float32(0.3)
    return np.asarray(np.clip(cv2.GaussianBlur(gray, (0, 0), 0.8) * 0.8 + 25 + grain, 20, 230), np.float32)


def codes(light: NDArray[Any]) -> Luma:
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)


def noisy(light: Light, frames: int, noise: float, seed: int = 5) -> list[Luma]:
    """A scene that stands still, seen by a sensor."""
    rng = np.random.default_rng(seed)
    return [codes(light + rng.normal(0, noise, light.shape)) for _ in range(frames)]


def popping(light: Light, frames: int, pop_at: int, noise: float = 0.0, *, moving: bool = False) -> list[Luma]:
    """A still scene of which every pixel changes at one frame, as at a key frame; maybe with a square that moves."""
    rng = np.random.default_rng(7)
    errors = [rng.normal(0, 4, light.shape).astype(np.float32) for _ in range(2)]
    found = []
    for t in range(frames):
        seen = light + errors[t >= pop_at] + rng.normal(0, noise, light.shape)
        if moving:
            seen[30:50, 20 + 3 * t : 40 + 3 * t] = 200
        found.append(codes(seen))
    return found


def frames_of(lumas: Sequence[Luma], sources: Sequence[Luma] | None = None, **fields: Any) -> list[Frame]:
    """Gray frames at 25 Hz."""
    height, width = lumas[0].shape
    format = VideoFormat(width, height, "gray")
    frames = [Frame((luma,), format, t, Fraction(1, 25), 1, t, 0, **fields) for t, luma in enumerate(lumas)]
    if sources is None:
        return frames
    return [sourced(frame, source) for frame, source in zip(frames, sources, strict=True)]


def sourced(frame: Frame, luma: Luma) -> Frame:
    """The frame as if it had been enhanced from `luma`."""
    format = replace(frame.format, width=luma.shape[1], height=luma.shape[0], pix_fmt="gray")
    return replace(frame, source=replace(frame, planes=(luma,), format=format))


def stabilised(frames: Sequence[Frame], mode: str = "adaptive", **options: Any) -> list[Frame]:
    stage = StabiliseStage(mode, **options)
    stage.open(frames[0].format)
    found = [done for frame in frames for done in stage.process(frame)]
    found += stage.flush()
    stage.close()
    return found


def stage_outputs(sources: Sequence[Luma], enhanced: Sequence[Luma], mode: str = "adaptive") -> list[Luma]:
    """Luma that the stage makes of enhanced frames and their sources."""
    return [frame.planes[0] for frame in stabilised(frames_of(enhanced, sources), mode)]
