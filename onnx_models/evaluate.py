"""All figures of a card: fidelity on clips as streams deliver them, and on photographs.

Protocol: reduce the original luma by the model's scale with antialiased bicubic, encode with x264
(veryfast, 30 fps, default GOP) at each CRF, decode, upscale, compare with the original luma on
every `every`-th frame, a border of 4 pixels shaved; mean over frames, then over clips.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from onnx_models.cards import CardError, load_card, read_card
from onnx_models.codecs import Coding, transcode
from onnx_models.degrade import reduce_luma, reduce_planes, to_codes
from onnx_models.errors import TrainingError
from onnx_models.level import level_of
from onnx_models.quality import Luma, bicubic, lanczos, psnr, ssim
from onnx_models.scenes import Planes, find_files, read_clip, read_photo

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

CRFS: tuple[int | None, ...] = (None, 18, 23, 28, 33)
SHAVE_PX = 4
Upscale = Callable[[Luma, float], Luma]
"""Luma and the level of its stream to enhanced luma."""


@dataclass(frozen=True)
class Score:
    """Mean fidelity of one method on one set."""

    psnr_db: float
    ssim: float


Scores = dict[str, Score]


def mean_scores(scores: Sequence[Mapping[str, Score]]) -> Scores:
    """Mean over frames or clips, a method at a time."""
    return {
        method: Score(
            fmean(score[method].psnr_db for score in scores),
            fmean(score[method].ssim for score in scores),
        )
        for method in scores[0]
    }


class OnnxUpscaler:
    """A model through ONNX Runtime on the CPU; sizes are padded and cropped here.

    Args:
        path: an ONNX file that fulfils the contract of `onnx_models.graph`.
        multiple_of: input sizes the model takes.
        threads: of ONNX Runtime.

    Raises:
        TrainingError: the file is missing or cannot be opened.
    """

    def __init__(self, path: Path, *, multiple_of: int = 1, threads: int = 1) -> None:
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types are private
            raise TrainingError(f"model {path} cannot be opened: {error}") from error
        self._multiple = multiple_of
        self._conditioned = "level" in [value.name for value in self._session.get_inputs()]
        self.scale = self.run(np.zeros((16, 16), np.uint8)).shape[0] // 16

    def run(self, luma: Luma, level: float = 0.0, strength: float = 1.0) -> Luma:
        """Enhance uint8 `[H,W]` to uint8 `[sH,sW]`."""
        height, width = luma.shape
        pad = ((0, -height % self._multiple), (0, -width % self._multiple))
        feeds = {
            "luma": np.pad(luma, pad, mode="edge")[None, None],
            "strength": np.array([strength], np.float32),
        }
        if self._conditioned:
            feeds["level"] = np.array([level], np.float32)
        out: Luma = self._session.run(["enhanced"], feeds)[0][0, 0]
        scale = out.shape[0] // (height + pad[0][1])
        return out[: height * scale, : width * scale]


def open_upscaler(model: str, threads: int = 1) -> OnnxUpscaler:
    """A model by its name in the zoo, or by the path of an ONNX file (with a card beside it or
    without).

    Raises:
        TrainingError: no such model, or it cannot be opened.
    """
    path = Path(model)
    try:
        if path.suffix != ".onnx":
            card = load_card(model)
            path, multiple = card.path, card.multiple_of
        elif path.with_suffix(".toml").exists():
            multiple = read_card(path.with_suffix(".toml")).multiple_of
        else:
            multiple = 4
    except CardError as error:
        raise TrainingError(str(error)) from error
    return OnnxUpscaler(path, multiple_of=multiple, threads=threads)


def compare(low: Luma, original: Luma, methods: Mapping[str, Upscale], level: float = 0.0) -> Scores:
    """Scores of every method on one frame."""
    scores = {}
    for name, upscale in methods.items():
        out = upscale(low, level)
        reference = original[: out.shape[0], : out.shape[1]]
        scores[name] = Score(psnr(out, reference, SHAVE_PX), ssim(out, reference, SHAVE_PX))
    return scores


def score_clip(
    sequence: Sequence[Planes],
    methods: Mapping[str, Upscale],
    scale: int,
    crfs: Sequence[int | None] = CRFS,
    every: int = 4,
) -> dict[str, Scores]:
    """Scores of one clip by CRF ("none", "18", ...)."""
    low = [reduce_planes(planes, scale) for planes in sequence]
    results = {}
    for crf in crfs:
        lumas, level = [planes[0] for planes in low], 0.0
        if crf is not None:
            decoded = transcode(low, Coding("h264", crf))
            lumas, level = [planes[0] for planes in decoded.sequence], level_of(decoded.qp)
        picked = range(min(1, len(low) - 1), len(low), every)
        frames = [compare(lumas[t], sequence[t][0], methods, level) for t in picked]
        results["none" if crf is None else str(crf)] = mean_scores(frames)
    return results


def paper_pair(path: Path, scale: int) -> tuple[Luma, Luma]:
    """A picture as publications on super-resolution measure it: (input, original), luma uint8.

    The original is cropped to a multiple of `scale`, reduced as RGB by antialiased bicubic (MATLAB's imresize:
    reflected borders, rounded to 8 bits), and both go to BT.601 limited-range luma, rounded.

    Raises:
        TrainingError: the picture cannot be decoded.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise TrainingError(f"picture {path} cannot be decoded; repair or remove it")
    height, width = (side // scale * scale for side in picture.shape[:2])
    original = np.asarray(picture[:height, :width], np.uint8)
    channels = [to_codes(reduce_luma(original[..., i], scale)) for i in range(3)]
    return _bt601(np.asarray(np.dstack(channels), np.uint8)), _bt601(original)


def _bt601(bgr: NDArray[np.uint8]) -> Luma:
    return to_codes(bgr @ np.array([24.966, 128.553, 65.481]) / 255 + 16)


@dataclass(frozen=True)
class Sampling:
    """What of a clip is measured."""

    frames: int = 32
    """From its beginning."""
    every: int = 4
    """One frame in so many is scored."""
    reduce: int = 1
    """The original is reduced by this first, which averages out its own compression."""

    def __str__(self) -> str:
        first = f"; originals reduced by {self.reduce} first" if self.reduce > 1 else ""
        return f"first {self.frames} frames, one in {self.every}{first}"


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class Report:
    """Everything measured; clips by name and CRF, photographs in the mean."""

    model: str
    protocol: str
    clips: dict[str, dict[str, Scores]]
    photos: Scores | None

    @property
    def mean(self) -> dict[str, Scores]:
        """Mean over the clips, by CRF."""
        if not self.clips:
            return {}
        crfs = next(iter(self.clips.values()))
        return {crf: mean_scores([clip[crf] for clip in self.clips.values()]) for crf in crfs}

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {
            "mean": {crf: {name: asdict(score) for name, score in scores.items()} for crf, scores in self.mean.items()}
        }


def evaluate(
    model: str,
    clips: Sequence[Path],
    photos: Sequence[Path] = (),
    sampling: Sampling = DEFAULT_SAMPLING,
    threads: int = 1,
) -> Report:
    """Measure a model against bicubic and Lanczos.

    Args:
        model: name in the zoo or path of an ONNX file.
        clips, photos: folders.
        sampling: what of a clip is measured.
        threads: of the model.

    Raises:
        TrainingError: model or data cannot serve.
    """
    upscaler = open_upscaler(model, threads)
    scale = upscaler.scale
    methods: dict[str, Upscale] = {
        "bicubic": lambda luma, _: bicubic(luma, scale),
        "lanczos": lambda luma, _: lanczos(luma, scale),
        "model": upscaler.run,
    }
    by_clip = {}
    for path in find_files(clips)[1] if clips else []:
        sequence = read_clip(path, sampling.reduce, sampling.frames)
        by_clip[path.stem] = score_clip(sequence, methods, scale, every=sampling.every)
    pictures = []
    for path in find_files(photos)[0] if photos else []:
        planes = read_photo(path, 16 * scale)
        pictures.append(compare(reduce_planes(planes, scale)[0], planes[0], methods))
    if not by_clip and not pictures:
        raise TrainingError("nothing to evaluate on: give --clips or --photos with usable files")
    return Report(model, str(sampling), by_clip, mean_scores(pictures) if pictures else None)


def table(report: Report) -> str:
    """PSNR-Y in dB (SSIM) a line, and the gains over bicubic and Lanczos."""
    lines = [f"{'set':24} {'CRF':>5} {'bicubic':>15} {'lanczos':>15} {'model':>15}  gain over both"]
    rows = [(name, crf, s) for name, clip in report.clips.items() for crf, s in clip.items()]
    rows += [("mean of clips", crf, s) for crf, s in report.mean.items()]
    rows += [("photos", "none", report.photos)] if report.photos else []
    for name, crf, scores in rows:
        cells = " ".join(f"{s.psnr_db:6.2f} ({s.ssim:.4f})" for s in scores.values())
        gains = [scores["model"].psnr_db - scores[m].psnr_db for m in ("bicubic", "lanczos")]
        lines.append(f"{name:24} {crf:>5} {cells}  {gains[0]:+.2f} {gains[1]:+.2f}")
    return "\n".join(lines)


def command(args: argparse.Namespace) -> str:
    """`evaluate`: returns the table."""
    sampling = Sampling(args.frames, args.every, args.reduce)
    report = evaluate(args.model, args.clips, args.photos, sampling, args.threads)
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    return table(report)
