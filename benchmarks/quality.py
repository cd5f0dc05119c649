"""`quality`: what viewers get: clips through encoder, the whole product and VMAF, against bicubic and Lanczos.

Each clip is reduced by the models' scale (antialiased bicubic), encoded with x264 (veryfast) at each rate, enhanced by
the product into a lossless file, and compared with the original: PSNR-Y and SSIM-Y as `streamer compare` has them,
VMAF and VMAF NEG (which gives no credit for mere sharpening), and flicker as `streamer compare --temporal` has it.
Models that keep the size are compared with their input. A photograph is a clip of one frame.
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
from onnx_models.codecs import planes_of
from onnx_models.degrade import reduce_planes
from onnx_models.quality import lanczos
from onnx_models.scenes import PHOTO_SUFFIXES, find_files, read_clip, read_photo
from streamer.compare import compare_files
from streamer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_models.scenes import Plane, Planes

CROP_PX = 128
ZOOM = 3


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one clip at one rate; the last four are None if they couldn't be measured."""

    clip: str
    crf: int
    method: str
    psnr_db: float
    ssim: float
    vmaf: float | None
    vmaf_neg: float | None
    difference_error: float | None
    """In 8-bit code values, see `streamer.flicker`."""
    warping_error: float | None
    """For values from 0 to 1."""


def run(folders: list[Path], models: list[str], crfs: list[int], frames: int, sheet: Path | None) -> Report:
    """Measures every clip and photograph below the folders with models of one scale.

    With `sheet`, a PNG shows the most detailed place of each at the heaviest rate, magnified: one row each of bicubic
    or input, the models and the original. Raises UsageError if the models' scales differ.
    """
    machine = facts()
    scales = {load_card(model).scale for model in models}
    if len(scales) > 1:
        raise UsageError(f"models of one scale can be compared, these have {sorted(scales)}: run the command for each")
    scores: list[Score] = []
    rows: list[Plane] = []
    for path in (file for files in find_files(folders) for file in files):
        with tempfile.TemporaryDirectory(prefix="streamer-quality-") as folder:
            case = _Case(Path(folder), path, scales.copy().pop(), frames)
            for crf in crfs:
                files = case.methods(crf, models)
                scores += [case.score(crf, method, file) for method, file in files.items()]
            if sheet is not None:
                shown = [file for method, file in files.items() if method != "lanczos"]
                rows.append(case.row([*shown, case.original]))
    if sheet is not None:
        cv2.imwrite(str(sheet), np.vstack([_widened(row, max(one.shape[1] for one in rows)) for row in rows]))
    findings = {"models": models, "frames": frames, "scores": [asdict(score) for score in scores]}
    return Report.of(findings, _text(scores), machine)


class _Case:
    """One clip: its original and whatever is made of it, as files in a folder."""

    def __init__(self, folder: Path, clip: Path, scale: int, frames: int) -> None:
        self.name, self.scale, self.folder = clip.stem, scale, folder
        still = clip.suffix.lower() in PHOTO_SUFFIXES
        sequence = [read_photo(clip)] if still else read_clip(clip, frames_max=frames)
        self.low = [reduce_planes(planes, scale) for planes in sequence]
        height, width = (side * scale for side in self.low[0][0].shape)
        cropped = [_crop(planes, height, width) for planes in sequence]
        self.original = _write(folder / "original.mkv", cropped, "ffv1", {})

    def methods(self, crf: int, models: list[str]) -> dict[str, Path]:
        """Lossless files of every method at a rate."""
        sent = _write(self.folder / f"{crf}.mkv", self.low, "libx264", {"crf": str(crf), "preset": "veryfast"})
        made = {model: self.folder / f"{crf}-{model}.mkv" for model in models}
        for model, file in made.items():
            streamer.enhance(sent, file, model=model, codec="ffv1")
        if self.scale == 1:
            return {"input": sent, **made}
        bicubic = self.folder / f"{crf}-bicubic.mkv"
        streamer.enhance(sent, bicubic, model=models[0], strength=0, codec="ffv1")
        with av.open(str(sent)) as container:  # all of it, uncropped, which `read_clip` doesn't promise
            received = [planes_of(frame) for frame in container.decode(video=0)]
        enlarged = [tuple(lanczos(plane, self.scale) for plane in planes) for planes in received]
        resampled = _write(self.folder / f"{crf}-lanczos.mkv", enlarged, "ffv1", {})
        return {"bicubic": bicubic, "lanczos": resampled, **made}

    def score(self, crf: int, method: str, file: Path) -> Score:
        """Compares a file with the original."""
        found = compare_files(str(self.original), str(file), temporal=True)
        return Score(
            self.name,
            crf,
            method,
            found.psnr_y,
            found.ssim_y,
            found.vmaf,
            found.vmaf_neg,
            found.difference_error,
            found.warping_error,
        )

    def row(self, files: Sequence[Path]) -> Plane:
        """The last frame of each file where the last file has most detail, magnified, side by side."""
        lumas = [read_clip(file)[-1][0] for file in files]
        left, top = _most_detailed(lumas[-1])
        crops = [luma[top:, left:][:CROP_PX, :CROP_PX] for luma in lumas]
        return np.hstack([crop.repeat(ZOOM, 0).repeat(ZOOM, 1) for crop in crops])


def _most_detailed(luma: Plane) -> tuple[int, int]:
    """Left and top of the crop with the strongest second derivatives."""
    detail = np.abs(cv2.Laplacian(luma, cv2.CV_32F))
    height, width = (max(1, side - CROP_PX) for side in luma.shape)
    # The anchor in a corner makes the mean at (x, y) that of the crop which begins there.
    means = cv2.boxFilter(detail, -1, (CROP_PX, CROP_PX), anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
    top, left = np.unravel_index(np.argmax(means[:height, :width]), (height, width))
    return int(left), int(top)


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
            stacked = np.concatenate([plane.reshape(-1) for plane in planes])
            frame = av.VideoFrame.from_ndarray(stacked.reshape(-1, width), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _text(scores: list[Score]) -> str:
    means = []
    for crf, method in dict.fromkeys((score.crf, score.method) for score in scores):
        found = [asdict(score) for score in scores if (score.crf, score.method) == (crf, method)]
        figures = {name: _mean([one[name] for one in found]) for name in _FORMS}
        means.append({"clip": "mean", "crf": crf, "method": method, **figures})
    rows = [
        (one["clip"], one["crf"], one["method"], *(_shown(one[name], form) for name, form in _FORMS.items()))
        for one in (*map(asdict, scores), *means)
    ]
    return table(
        ("clip", "CRF", "method", "PSNR-Y dB", "SSIM-Y", "VMAF", "VMAF NEG", "difference error", "warping error"), rows
    )


_FORMS = {
    "psnr_db": ".2f",
    "ssim": ".4f",
    "vmaf": ".2f",
    "vmaf_neg": ".2f",
    "difference_error": ".3f",
    "warping_error": ".6f",
}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _shown(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)
