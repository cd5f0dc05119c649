"""High-resolution moving sequences, made from folders of photographs and clips.

A sequence is a list of `Planes`: luma and two half-size chroma planes as an encoder takes them
(yuv420p), uint8, all frames of one size that is a multiple of 4. Photographs become limited range; clips keep the range
they have, and what is deeper than 8 bits is dithered to 8.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from onnx_models.codecs import planes_of
from onnx_models.errors import TrainingError
from onnx_models.limits import ANY_SIZE, COUNT, POSITIVE, SHARE, Limits, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Plane = NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
CLIP_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".y4m"})
MULTIPLE_PX = 4
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
"""Markers (ITU-T T.81, table B.1), which the coded data between them can't hold."""
CLIP_FRAMES_MAX = 300
CLIP_BYTES_MAX = 1_500_000_000
"""Memory for the frames of all clips of one process."""


@dataclass(frozen=True)
class SceneMix:
    """How sequences are drawn; shares are probabilities, sizes are pixels of the target."""

    width_px: int = 640
    height_px: int = 384
    """Size of a sequence; sources that are smaller give sequences of their own size..."""
    smallest_px: int = 192
    """... but a source with a side below this is an error."""
    frames: int = 12
    clip_share: float = 0.35
    """Share taken from clips, when there are any."""
    clip_reduce: tuple[int, ...] = (1, 2, 2)
    """Clips are reduced by one of these first: they carry compression of their own, but at full
    size they show how soft the pictures of real cameras are."""
    shrink_share: float = 0.5
    """Share of photographs reduced (down to half) before the camera moves over them."""
    soften_share: float = 0.4
    """Share of photographs seen through a soft lens: the target is soft too."""
    soften_sigma_px: tuple[float, float] = (0.4, 1.6)
    still_share: float = 0.2
    speed_px: tuple[float, float] = (0.3, 8.0)
    """Camera speed in pixels a frame."""
    whole_share: float = 0.6
    """Share of cameras without zoom that move by whole pixels, which keeps all detail."""
    zoom_share: float = 0.25
    zoom_rate: float = 0.004
    """Largest relative change of size a frame."""

    def __post_init__(self) -> None:
        sides = dict.fromkeys(("width_px", "height_px", "smallest_px"), Limits(MULTIPLE_PX))
        names = ("clip_share", "shrink_share", "soften_share", "still_share", "whole_share", "zoom_share", "zoom_rate")
        spans = {"soften_sigma_px": POSITIVE, "speed_px": ANY_SIZE}
        check(self, sides | dict.fromkeys(("frames", "clip_reduce"), COUNT) | dict.fromkeys(names, SHARE), spans)


def find_files(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Photographs and clips below the folders, sorted by path.

    Raises:
        TrainingError: a folder is missing, or nothing usable lies in any of them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise TrainingError(f"data folder {folder} does not exist; name folders that do")
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    photos = [p for p in files if p.suffix.lower() in PHOTO_SUFFIXES]
    clips = [p for p in files if p.suffix.lower() in CLIP_SUFFIXES]
    if not photos and not clips:
        listed = ", ".join(str(f) for f in folders) or "no folder"
        known = " ".join(sorted(PHOTO_SUFFIXES | CLIP_SUFFIXES))
        raise TrainingError(f"no photographs or clips in {listed}; looked for {known}")
    return photos, clips


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A still picture as blue, green and red `[H,W,3]`.

    Raises:
        TrainingError: it cannot be decoded, or is a JPEG without its end, of which decoders make gray.
    """
    try:
        content = path.read_bytes()
        if content.startswith(JPEG_START) and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
            raise TrainingError(f"photograph {path} cannot be decoded: it is cut short; repair or remove it")
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"photograph {path} cannot be decoded: {reason}; repair or remove it") from error
    if picture is None:
        raise TrainingError(f"photograph {path} cannot be decoded; repair or remove it")
    return np.asarray(picture, np.uint8)


def read_photo(path: Path, smallest_px: int = 4) -> Planes:
    """A photograph as planes.

    Raises:
        TrainingError: it cannot be decoded or is smaller than asked for.
    """
    picture = read_picture(path)
    height, width = (side // 4 * 4 for side in picture.shape[:2])
    if min(width, height) < smallest_px:
        raise TrainingError(
            f"photograph {path} is {picture.shape[1]}x{picture.shape[0]} px, sides of at least "
            f"{smallest_px} are needed; remove it or lower [scene] smallest_px"
        )
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="bgr24")
    return split_planes(frame)


def split_planes(frame: av.VideoFrame) -> Planes:
    """A decoded frame with even sides as 8-bit 4:2:0 planes, cropped to a multiple of 4."""
    luma, u, v = planes_of(frame)
    rows, cols = frame.height // MULTIPLE_PX * MULTIPLE_PX, frame.width // MULTIPLE_PX * MULTIPLE_PX
    half = (slice(rows // 2), slice(cols // 2))
    return luma[:rows, :cols], u[half], v[half]


def read_clip(
    path: Path,
    reduce: int = 1,
    frames_max: int = CLIP_FRAMES_MAX,
    bytes_max: int = CLIP_BYTES_MAX,
) -> list[Planes]:
    """The first frames of a clip, reduced by an integer factor, at most so many and so much.

    Raises:
        TrainingError: there is no video, it cannot be decoded, its sides are odd or too small, or they change.
    """
    sequence: list[Planes] = []
    size, first = 0, ""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                sides = f"{frame.width}x{frame.height}"
                first = first or sides
                if sides != first:
                    raise TrainingError(f"clip {path} changes from {first} to {sides} px; cut it there or remove it")
                if frame.width % 2 or frame.height % 2:
                    raise TrainingError(f"clip {path} is {sides} px; sides must be even, so crop or remove it")
                if min(frame.width, frame.height) < MULTIPLE_PX * reduce:
                    raise TrainingError(f"clip {path} of {sides} px is too small to be reduced by {reduce}; remove it")
                sequence.append(_shrink(split_planes(frame), 1 / reduce))
                size += sum(plane.nbytes for plane in sequence[-1])
                if len(sequence) >= frames_max or size >= bytes_max:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise TrainingError(f"clip {path} cannot be decoded ({error}); remove it") from error
    if not sequence:
        raise TrainingError(f"clip {path} has no frames; remove it")
    return sequence


def _shrink(planes: Planes, factor: float) -> Planes:
    """Antialiased reduction of all planes to a multiple of 4."""
    if factor == 1:
        return planes
    height, width = (int(side * factor) // 4 * 4 for side in planes[0].shape)

    def resize(plane: Plane, part: int) -> Plane:
        size = (width // part, height // part)
        return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.uint8)

    return resize(planes[0], 1), resize(planes[1], 2), resize(planes[2], 2)


def _soften(planes: Planes, sigma_px: float) -> Planes:
    luma = np.asarray(cv2.GaussianBlur(planes[0], (0, 0), sigma_px), np.uint8)
    return luma, planes[1], planes[2]


class Scenes:
    """Draws sequences; the same generator state always gives the same sequence.

    Args:
        photos, clips: files, as `find_files` gives them.
        mix: how to draw.

    Raises:
        TrainingError: nothing is large enough for the mix, or a file cannot be decoded.
    """

    def __init__(self, photos: Iterable[Path], clips: Iterable[Path], mix: SceneMix) -> None:
        self.mix = mix
        self.photos = list(photos)
        paths = list(clips)
        self._has_clips = bool(paths)
        self.clips = [self._clip(path, len(paths)) for path in paths] if mix.clip_share or not self.photos else []
        self._photo = functools.lru_cache(maxsize=32)(self._read_photo)
        if not self.photos and not paths:
            raise TrainingError("no photographs or clips to draw sequences from")

    def _read_photo(self, path: Path) -> Planes:
        return read_photo(path, self.mix.smallest_px)

    def _clip(self, path: Path, clips: int) -> list[Planes]:
        """As many frames as fit; enough for a sequence at the strongest reduction."""
        mix, strongest = self.mix, max(self.mix.clip_reduce)
        bytes_max = CLIP_BYTES_MAX // clips
        sequence = read_clip(path, frames_max=CLIP_FRAMES_MAX, bytes_max=bytes_max)
        if len(sequence) < mix.frames and len(sequence) * sum(plane.nbytes for plane in sequence[0]) >= bytes_max:
            raise TrainingError(
                f"the memory for {clips} clips ({CLIP_BYTES_MAX / 1e6:.1f} MB) holds {len(sequence)} frames of {path}, "
                f"{mix.frames} are needed: use fewer or smaller clips"
            )
        height, width = (side // strongest for side in sequence[0][0].shape)
        if len(sequence) < mix.frames or min(height, width) < mix.smallest_px:
            raise TrainingError(
                f"clip {path} gives {len(sequence)} frames of {width}x{height} px after reduction "
                f"by {strongest}; at least {mix.frames} with sides of {mix.smallest_px} are "
                "needed: remove it or change [scene]"
            )
        return sequence

    def draw(self, rng: np.random.Generator) -> list[Planes]:
        """One sequence of `mix.frames` frames."""
        share = self.mix.clip_share if self.photos else 1.0
        if self._has_clips and rng.random() < share:
            return self._from_clip(rng)
        return self._from_photo(rng)

    def _from_clip(self, rng: np.random.Generator) -> list[Planes]:
        mix = self.mix
        clip = self.clips[rng.integers(len(self.clips))]
        longest = (len(clip) - 1) // (mix.frames - 1) if mix.frames > 1 else 1
        step = int(rng.integers(1, min(3, longest + 1))) if longest > 1 else 1
        start = int(rng.integers(len(clip) - step * (mix.frames - 1)))
        picked = clip[start::step][: mix.frames]
        reduce = mix.clip_reduce[rng.integers(len(mix.clip_reduce))]
        if reduce > 1:
            picked = [_shrink(planes, 1 / reduce) for planes in picked]
        height, width = picked[0][0].shape
        rows, cols = min(height, mix.height_px) // 4 * 4, min(width, mix.width_px) // 4 * 4
        top = int(rng.integers((height - rows) // 4 + 1)) * 4
        left = int(rng.integers((width - cols) // 4 + 1)) * 4
        return [_crop(planes, top, left, rows, cols) for planes in picked]

    def _from_photo(self, rng: np.random.Generator) -> list[Planes]:
        mix = self.mix
        planes = self._photo(self.photos[rng.integers(len(self.photos))])
        height, width = planes[0].shape
        smallest = max(0.5, mix.width_px / width, mix.height_px / height)
        if smallest < 1 and rng.random() < mix.shrink_share:
            planes = _shrink(planes, float(rng.uniform(smallest, 1)))
        if rng.random() < mix.soften_share:
            planes = _soften(planes, float(rng.uniform(*mix.soften_sigma_px)))
        return _pan(planes, mix, rng)


def _crop(planes: Planes, top: int, left: int, rows: int, cols: int) -> Planes:
    luma = planes[0][top : top + rows, left : left + cols]
    half = (slice(top // 2, (top + rows) // 2), slice(left // 2, (left + cols) // 2))
    return luma, planes[1][half], planes[2][half]


def _pan(planes: Planes, mix: SceneMix, rng: np.random.Generator) -> list[Planes]:
    """A camera moving over a photograph: constant velocity, perhaps zooming."""
    size = np.minimum(planes[0].shape[::-1], [mix.width_px, mix.height_px]) // 4 * 4
    still = rng.random() < mix.still_share
    speed = 0.0 if still else float(rng.uniform(*mix.speed_px))
    angle = float(rng.uniform(0, 2 * np.pi))
    velocity = np.array([speed * np.cos(angle), speed * np.sin(angle) * 0.7])
    zoom = 1.0
    if not still and rng.random() < mix.zoom_share:
        zoom += float(rng.uniform(-mix.zoom_rate, mix.zoom_rate))
    whole = zoom == 1.0 and rng.random() < mix.whole_share  # whole pixels: nothing is resampled
    room = (planes[0].shape[::-1] - size).astype(float)
    travel = velocity * (mix.frames - 1)
    lowest = np.clip(-travel, 0, room)
    highest = np.maximum(lowest, np.clip(room - travel, 0, room))
    start = np.rint(rng.uniform(lowest, highest) / 2) * 2
    sequence = []
    for t in range(mix.frames):
        corner = start + velocity * t
        corner = np.rint(corner) if whole else corner
        sequence.append(_window(planes, corner, zoom**t, size))
    return sequence


def _window(planes: Planes, corner: NDArray[np.float64], scale: float, size_px: NDArray[np.int64]) -> Planes:
    """The camera's picture: top-left corner in luma pixels, size relative to the photograph."""

    def warp(plane: Plane, part: int) -> Plane:
        size = size_px // part
        shift = corner / part + size * (1 - scale) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        return np.asarray(
            cv2.warpAffine(
                plane,
                matrix,
                (int(size[0]), int(size[1])),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            ),
            np.uint8,
        )

    return warp(planes[0], 1), warp(planes[1], 2), warp(planes[2], 2)
