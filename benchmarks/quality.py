"""`quality`: what viewers get: clips through encoder, the whole product and VMAF, against bicubic and Lanczos.

Each clip is reduced by the model's scale (antialiased bicubic), encoded with x264 (veryfast) at each rate, enhanced by
the product into a lossless file, and compared with the original: PSNR-Y and SSIM-Y as `streamer compare` has them,
VMAF and VMAF NEG (which gives no credit for mere sharpening). A model that keeps the size is compared with its input.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

import streamer
from benchmarks.machine import facts
from benchmarks.report import Report, table
from onnx_models.cards import load_card
from onnx_models.degrade import reduce_planes
from onnx_models.quality import lanczos
from onnx_models.scenes import find_files, read_clip
from streamer.compare import compare_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_models.scenes import Plane, Planes

CROP_PX = 128
ZOOM = 3


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one clip at one rate."""

    clip: str
    crf: int
    method: str
    psnr_db: float
    ssim: float
    vmaf: float | None
    vmaf_neg: float | None


def run(clips: list[Path], model: str, crfs: list[int], frames: int, sheet: Path | None) -> Report:
    """Measures every clip below the folders; raises VmafError's reason as None in the figures.

    With `sheet`, a PNG shows the middle of every clip at the heaviest rate, magnified: one row each of bicubic or
    input, model and original.
    """
    machine = facts()
    card = load_card(model)
    scores: list[Score] = []
    rows: list[Plane] = []
    for path in find_files(clips)[1]:
        with tempfile.TemporaryDirectory(prefix="streamer-quality-") as folder:
            case = _Case(Path(folder), path, card.scale, frames)
            for crf in crfs:
                files = case.methods(crf, model)
                scores += [case.score(crf, method, file) for method, file in files.items()]
            if sheet is not None:
                rows.append(case.row([*files.values(), case.original]))
    if sheet is not None:
        cv2.imwrite(str(sheet), np.vstack([_widened(row, max(one.shape[1] for one in rows)) for row in rows]))
    findings = {"model": model, "frames": frames, "scores": [asdict(score) for score in scores]}
    return Report.of(findings, _text(scores), machine)


class _Case:
    """One clip: its original and whatever is made of it, as files in a folder."""

    def __init__(self, folder: Path, clip: Path, scale: int, frames: int) -> None:
        self.name, self.scale, self.folder = clip.stem, scale, folder
        sequence = read_clip(clip, frames_max=frames)
        self.low = [reduce_planes(planes, scale) for planes in sequence]
        height, width = (side * scale for side in self.low[0][0].shape)
        cropped = [_crop(planes, height, width) for planes in sequence]
        self.original = _write(folder / "original.mkv", cropped, "ffv1", {})

    def methods(self, crf: int, model: str) -> dict[str, Path]:
        """Lossless files of every method at a rate."""
        sent = _write(self.folder / f"{crf}.mkv", self.low, "libx264", {"crf": str(crf), "preset": "veryfast"})
        made = {"model": self.folder / f"{crf}-model.mkv"}
        streamer.enhance(sent, made["model"], model=model, codec="ffv1")
        if self.scale == 1:
            return {"input": sent, **made}
        bicubic = self.folder / f"{crf}-bicubic.mkv"
        streamer.enhance(sent, bicubic, model=model, strength=0, codec="ffv1")
        enlarged = [tuple(lanczos(plane, self.scale) for plane in planes) for planes in read_clip(sent)]
        resampled = _write(self.folder / f"{crf}-lanczos.mkv", enlarged, "ffv1", {})
        return {"bicubic": bicubic, "lanczos": resampled, **made}

    def score(self, crf: int, method: str, file: Path) -> Score:
        """Compares a file with the original."""
        found = compare_files(str(self.original), str(file))
        return Score(self.name, crf, method, found.psnr_y, found.ssim_y, found.vmaf, found.vmaf_neg)

    def row(self, files: Sequence[Path]) -> Plane:
        """The middle of the last frame of each file, magnified, side by side."""
        pictures = []
        for file in files:
            luma = read_clip(file)[-1][0]
            top, left = ((side - CROP_PX) // 2 for side in luma.shape)
            crop = luma[max(0, top) :, max(0, left) :][:CROP_PX, :CROP_PX]
            pictures.append(crop.repeat(ZOOM, 0).repeat(ZOOM, 1))
        return np.hstack(pictures)


def _crop(planes: Planes, height: int, width: int) -> Planes:
    y, u, v = planes
    return y[:height, :width], u[: height // 2, : width // 2], v[: height // 2, : width // 2]


def _widened(row: Plane, width: int) -> Plane:
    return np.pad(row, ((0, 0), (0, width - row.shape[1])))


def _write(path: Path, sequence: Sequence[Any], codec: str, options: dict[str, str]) -> Path:
    height, width = sequence[0][0].shape
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, planes in enumerate(sequence):
            stacked = np.concatenate([np.ascontiguousarray(plane).reshape(-1, width) for plane in planes])
            frame = av.VideoFrame.from_ndarray(stacked, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _text(scores: list[Score]) -> str:
    means = []
    for crf, method in dict.fromkeys((score.crf, score.method) for score in scores):
        found = [score for score in scores if (score.crf, score.method) == (crf, method)]
        means.append(
            Score(
                "mean",
                crf,
                method,
                fmean(one.psnr_db for one in found),
                fmean(one.ssim for one in found),
                _mean([one.vmaf for one in found]),
                _mean([one.vmaf_neg for one in found]),
            )
        )
    rows = [
        (one.clip, one.crf, one.method, f"{one.psnr_db:.2f}", f"{one.ssim:.4f}", _shown(one.vmaf), _shown(one.vmaf_neg))
        for one in (*scores, *means)
    ]
    return table(("clip", "CRF", "method", "PSNR-Y dB", "SSIM-Y", "VMAF", "VMAF NEG"), rows)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
