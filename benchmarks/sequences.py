"""Moving sequences for `temporal`: clips, and photographs that a camera moves over in ways that mislead a stabiliser.

Luma only, uint8 [height, width]. Clips carry compression and noise of their own, so they are reduced to half their
size first. Everything follows from the files: no figure changes between two runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from onnx_models.codecs import Coding, transcode
from onnx_models.degrade import reduce_luma, to_codes
from onnx_models.scenes import find_files, read_clip, read_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Luma = NDArray[np.uint8]

CLIP_REDUCE = 2
SMALLEST_REDUCED = 240
"""Side of a clip that is not reduced: there would be too little left."""
MAX_WIDTH, MAX_HEIGHT = 640, 384
STATIC_SHARE = 0.6
"""Of the pixels of a clip that don't change by more than STATIC_CODES between frames, if its camera stands still."""
STATIC_CODES = 3.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A clean sequence: what the enhanced one is compared with."""

    name: str
    frames: list[Luma]
    is_static: bool
    """Whether the camera stands still, judged by the pictures."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What happens to a sequence on its way: noise of a sensor, or x264 (veryfast)."""

    noise: float = 0.0
    """Standard deviation in 8-bit codes."""
    crf: int | None = None
    keyint: int = 250

    @property
    def name(self) -> str:
        noise = f"noise {self.noise:g}" if self.noise else ""
        return " ".join(filter(None, (noise, f"CRF {self.crf} GOP {self.keyint}" if self.crf else ""))) or "clean"


DAMAGES = (
    Damage(),
    Damage(noise=5),
    Damage(noise=10),
    Damage(noise=4, crf=28),
    Damage(crf=28),
    Damage(crf=28, keyint=30),
    Damage(crf=33),
    Damage(crf=33, keyint=30),
)


@dataclass(frozen=True, slots=True)
class Camera:
    """How a picture is seen at frame t: shift in px, zoom, contrast around mid-grey, brightness."""

    name: str
    shift: Callable[[int], tuple[float, float]] = lambda t: (0.0, 0.0)
    zoom: Callable[[int], float] = lambda t: 1.0
    contrast: float = 1.0
    gain: Callable[[int], float] = lambda t: 1.0


def _shake(t: int) -> tuple[float, float]:
    """A hand that tries to hold still, in px."""
    return 1.7 * np.sin(0.31 * t) + 0.9 * np.sin(1.13 * t + 1), 1.3 * np.sin(0.23 * t + 2) + 0.7 * np.sin(0.9 * t)


CAMERAS = (
    Camera("pan", shift=lambda t: (2.6 * t, 0.7 * t)),
    Camera("slow pan", shift=lambda t: (0.3 * t, 0.11 * t)),
    Camera("low-contrast pan", shift=lambda t: (1.4 * t, 0.5 * t), contrast=0.15),
    Camera("low-contrast slow pan", shift=lambda t: (0.35 * t, 0.1 * t), contrast=0.15),
    Camera("zoom", zoom=lambda t: 1.002**t),
    Camera("fade", gain=lambda t: max(0.0, 1 - t / 60)),
    Camera("slow fade", gain=lambda t: 1 - t / 400),
    Camera("hand-held", shift=_shake),
    Camera("sudden pan", shift=lambda t: (1.3 * max(0, t - 20), 0.4 * max(0, t - 20))),
    Camera("sudden low-contrast pan", shift=lambda t: (0.8 * max(0, t - 20), 0.0), contrast=0.15),
    Camera("exposure", gain=lambda t: 1 + 0.03 * (t // 8 % 2)),
)


def clips(paths: Sequence[Path], frames: int) -> list[Scene]:
    """The clips below `paths`, reduced by CLIP_REDUCE and cut to the middle, `frames` of each."""
    return [_clip(path, frames) for path in find_files(list(paths))[1]]


def pans(paths: Sequence[Path], frames: int) -> list[Scene]:
    """Every camera over every photograph in turn below `paths`: as many sequences as cameras."""
    photos = find_files(list(paths))[0]
    if not photos:
        return []
    return [
        seen_by(to_codes(reduce_luma(read_photo(photos[number % len(photos)])[0], 2)), camera, frames)
        for number, camera in enumerate(CAMERAS)
    ]


def seen_by(photo: Luma, camera: Camera, count: int) -> Scene:
    """`count` frames of a picture, at most MAX_WIDTH x MAX_HEIGHT."""
    height, width = (min(side, most) // 8 * 8 for side, most in zip(photo.shape, (MAX_HEIGHT, MAX_WIDTH), strict=True))
    return Scene(camera.name, [_view(photo, camera, t, (width, height)) for t in range(count)], is_static=False)


def fitting(scene: Scene, scale: int) -> Scene:
    """The scene, cropped as far as needed for sides that are even when they are reduced by `scale`."""
    height, width = (side // (2 * scale) * 2 * scale for side in scene.frames[0].shape)
    return replace(scene, frames=[luma[:height, :width] for luma in scene.frames])


def received(frames: list[Luma], scale: int, damage: Damage) -> tuple[list[Luma], float | None]:
    """What a receiver gets of `frames` reduced by `scale`, and the quantiser that its decoder tells."""
    low = [to_codes(reduce_luma(luma, scale)) if scale > 1 else luma for luma in frames]
    if damage.noise:
        rng = np.random.default_rng(11)
        low = [to_codes(luma + rng.normal(0, damage.noise, luma.shape)) for luma in low]
    if damage.crf is None:
        return low, None
    gray = np.full((low[0].shape[0] // 2, low[0].shape[1] // 2), 128, np.uint8)
    coding = Coding(quality=damage.crf, keyint=damage.keyint)
    decoded = transcode([(luma, gray, gray) for luma in low], coding)
    return [planes[0] for planes in decoded.sequence], decoded.qp


def is_static(frames: Sequence[Luma]) -> bool:
    """Whether most of the picture stays where it is."""
    shares = [np.mean(cv2.absdiff(a, b) <= STATIC_CODES) for a, b in itertools.pairwise(frames)]
    return bool(np.median(shares) >= STATIC_SHARE)


def _clip(path: Path, count: int) -> Scene:
    frames = [_middle(_reduced(planes[0])) for planes in read_clip(path, frames_max=count)]
    return Scene(path.stem, frames, is_static(frames))


def _reduced(luma: Luma) -> Luma:
    return to_codes(reduce_luma(luma, CLIP_REDUCE)) if min(luma.shape) >= SMALLEST_REDUCED else luma


def _middle(luma: Luma) -> Luma:
    height, width = (min(side, most) // 8 * 8 for side, most in zip(luma.shape, (MAX_HEIGHT, MAX_WIDTH), strict=True))
    top, left = ((side - kept) // 2 for side, kept in zip(luma.shape, (height, width), strict=True))
    return luma[top : top + height, left : left + width].copy()


def _view(photo: Luma, camera: Camera, t: int, size: tuple[int, int]) -> Luma:
    zoom, shift = 1 / camera.zoom(t), camera.shift(t)
    start = [0.2 * (side - kept) for side, kept in zip(photo.shape[::-1], size, strict=True)]
    offset = [s + move + 0.5 * kept * (1 - zoom) for s, move, kept in zip(start, shift, size, strict=True)]
    matrix = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
    view = cv2.warpAffine(
        photo.astype(np.float32),
        matrix,
        size,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    black, mid = 16.0, 126.0
    return to_codes(black + ((view - mid) * camera.contrast + mid - black) * camera.gain(t))
