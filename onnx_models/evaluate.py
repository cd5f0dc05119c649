"""All figures of a card: fidelity on clips as streams deliver them, on photographs, and on published sets.

Clips: the original luma is reduced by the model's scale with antialiased bicubic, degraded, enhanced, and compared with
the original on every `every`-th frame, a border of 4 pixels shaved; mean over frames, then over clips. A conditioned
model is told what its decoder would tell of the compression, and the noise that is really there. Models run in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from onnx_models.codecs import Coding, transcode
from onnx_models.degrade import kept_share, reduce_luma, reduce_planes, to_codes
from onnx_models.enhancer import UNTOUCHED, Levels, OnnxEnhancer, open_enhancer
from onnx_models.errors import TrainingError
from onnx_models.level import level_of_noise, level_of_qp, level_of_stream
from onnx_models.limits import COUNT, check
from onnx_models.quality import SSIM_WINDOW_PX, Luma, bicubic, lanczos, psnr, ssim
from onnx_models.scenes import PHOTO_SUFFIXES, Planes, find_files, read_clip, read_photo, read_picture

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

SHAVE_PX = 4
Enhance = Callable[[Luma, Levels], Luma]
"""Luma and the levels of its stream to enhanced luma."""


@dataclass(frozen=True)
class Condition:
    """What a stream went through on its way."""

    crf: int | None = None
    """Of x264 (veryfast, 30 fps, its default distance of key frames); None: not compressed."""
    noise_sigma: float = 0.0
    """Additive Gaussian noise before that, in 8-bit code values, the same for a frame's number."""
    jpeg: int | None = None
    """Quality of libjpeg instead, frame by frame."""

    def __str__(self) -> str:
        parts = [f"noise {self.noise_sigma:g}"] if self.noise_sigma else []
        parts += [f"CRF {self.crf}"] if self.crf is not None else []
        parts += [f"JPEG q{self.jpeg}"] if self.jpeg is not None else []
        return " + ".join(parts) or "clean"

    def apply(self, sequence: Sequence[Planes]) -> tuple[list[Luma], Levels]:
        """Received luma planes and their levels."""
        clean, level = self._coded(sequence)
        if not self.noise_sigma:
            return clean, (level, 0.0)
        noisy = [(self._noisy(planes[0], t), *planes[1:]) for t, planes in enumerate(sequence)]
        received, level = self._coded(noisy)
        sent = ([planes[0] for planes in noisy], [planes[0] for planes in sequence])
        return received, (level, level_of_noise(self.noise_sigma * kept_share(sent, (received, clean))))

    def _coded(self, sequence: Sequence[Planes]) -> tuple[list[Luma], float]:
        if self.crf is None and self.jpeg is None:
            return [planes[0] for planes in sequence], 0.0
        video = self.crf is not None
        coding = Coding("h264", self.crf) if self.crf is not None else Coding("jpeg", self.jpeg or 0)
        decoded = transcode(sequence, coding)
        level = level_of_stream(decoded.qp) if video else level_of_qp(decoded.qp)
        return [planes[0] for planes in decoded.sequence], level

    def _noisy(self, luma: Luma, number: int) -> Luma:
        noise = np.random.default_rng(number).normal(0, self.noise_sigma, luma.shape)
        return to_codes(luma + noise)


CLEAN = Condition()
CLIP_CONDITIONS = (
    CLEAN,
    *(Condition(crf) for crf in (18, 23, 28, 33, 38)),
    *(Condition(noise_sigma=sigma) for sigma in (2, 5)),
    Condition(28, noise_sigma=4),
)
JPEG_CONDITIONS = tuple(Condition(jpeg=quality) for quality in (10, 20, 30, 40))


@dataclass(frozen=True)
class Score:
    """Mean fidelity of one method."""

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


def methods_of(enhancer: OnnxEnhancer) -> dict[str, Enhance]:
    """What is compared, the model last: interpolations, or the input itself where the size stays."""
    scale = enhancer.scale
    if scale == 1:
        return {"input": lambda luma, _: luma, "model": enhancer.run}
    return {
        "bicubic": lambda luma, _: bicubic(luma, scale),
        "lanczos": lambda luma, _: lanczos(luma, scale),
        "model": enhancer.run,
    }


def compare(
    low: Luma, original: Luma, methods: Mapping[str, Enhance], levels: Levels = UNTOUCHED, shave_px: int = SHAVE_PX
) -> Scores:
    """Scores of every method on one frame."""
    scores = {}
    for name, enhance in methods.items():
        out = enhance(low, levels)
        reference = original[: out.shape[0], : out.shape[1]]
        scores[name] = Score(psnr(out, reference, shave_px), ssim(out, reference, shave_px))
    return scores


def score_clip(
    sequence: Sequence[Planes],
    methods: Mapping[str, Enhance],
    scale: int,
    conditions: Sequence[Condition] = CLIP_CONDITIONS,
    every: int = 4,
) -> dict[str, Scores]:
    """Scores of one clip by condition ("clean", "CRF 18", ...)."""
    low = [reduce_planes(planes, scale) for planes in sequence]
    results = {}
    for condition in conditions:
        lumas, levels = condition.apply(low)
        picked = range(min(1, len(low) - 1), len(low), every)
        results[str(condition)] = mean_scores([compare(lumas[t], sequence[t][0], methods, levels) for t in picked])
    return results


def paper_pair(path: Path, scale: int) -> tuple[Luma, Luma]:
    """A picture as publications on super-resolution measure it: (input, original), luma uint8.

    The original is cropped to a multiple of `scale`, reduced as RGB by antialiased bicubic (MATLAB's imresize:
    reflected borders, rounded to 8 bits), and both go to BT.601 limited-range luma, rounded.

    Raises:
        TrainingError: the picture cannot be decoded.
    """
    picture = read_picture(path)
    height, width = (side // scale * scale for side in picture.shape[:2])
    original = picture[:height, :width]
    channels = [to_codes(reduce_luma(original[..., i], scale)) for i in range(3)]
    return _bt601(np.asarray(np.dstack(channels), np.uint8)), _bt601(original)


def _bt601(bgr: NDArray[np.uint8]) -> Luma:
    return to_codes(bgr @ np.array([24.966, 128.553, 65.481]) / 255 + 16)


def score_picture(path: Path, methods: Mapping[str, Enhance], scale: int) -> dict[str, Scores]:
    """Scores of one picture of a published set: reduced by the scale, or, where the size stays, through JPEG.

    A border of `scale` pixels is shaved from enlarged pictures, as publications do.
    """
    low, original = paper_pair(path, scale)
    _check_size(path, original, scale, scale if scale > 1 else 0)
    if scale > 1:
        return {str(CLEAN): compare(low, original, methods, shave_px=scale)}
    results = {}
    for condition in JPEG_CONDITIONS:
        half = np.full((original.shape[0] // 2, original.shape[1] // 2), 128, np.uint8)
        (received,), levels = condition.apply([(original, half, half)])
        results[str(condition)] = compare(received, original, methods, levels, shave_px=0)
    return results


@dataclass(frozen=True)
class Sampling:
    """What of a clip is measured."""

    frames: int = 32
    """From its beginning."""
    every: int = 4
    """One frame in so many is scored."""
    reduce: int = 1
    """The original is reduced by this first, which averages out its own compression."""

    def __post_init__(self) -> None:
        check(self, dict.fromkeys(("frames", "every", "reduce"), COUNT))

    def __str__(self) -> str:
        first = f", originals reduced by {self.reduce} first" if self.reduce > 1 else ""
        return f"first {self.frames} frames, one in {self.every}{first}"


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class Row:
    """Scores on one member of a set under one condition."""

    set: str
    """"clips", "photos", or the name of a folder of pictures."""
    item: str
    condition: str
    scores: Scores

    @property
    def baseline(self) -> str:
        """The method that gains are over: Lanczos, or the input."""
        return "lanczos" if "lanczos" in self.scores else "input"

    @property
    def gain_db(self) -> float:
        """PSNR-Y over the baseline."""
        return self.scores["model"].psnr_db - self.scores[self.baseline].psnr_db


@dataclass(frozen=True)
class Report:
    """Everything measured."""

    model: str
    rows: tuple[Row, ...]
    protocols: dict[str, str]
    """How each set was measured."""

    @property
    def means(self) -> tuple[Row, ...]:
        """Mean of each set under each condition."""
        groups: dict[tuple[str, str], list[Scores]] = {}
        for row in self.rows:
            groups.setdefault((row.set, row.condition), []).append(row.scores)
        return tuple(Row(group, "mean", condition, mean_scores(found)) for (group, condition), found in groups.items())

    def weakest(self) -> list[Row]:
        """Where the model helps least: the condition with the smallest gain of each of up to 3 clips, weakest first."""
        found: dict[str, Row] = {}
        for row in sorted((row for row in self.rows if row.set == CLIPS), key=lambda row: row.gain_db):
            found.setdefault(row.item, row)
        return list(found.values())[:_WEAKEST]


CLIPS, PHOTOS = "clips", "photos"
_WEAKEST = 3


def evaluate(
    model: str,
    clips: Sequence[Path] = (),
    photos: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
    sampling: Sampling = DEFAULT_SAMPLING,
    threads: int = 1,
) -> Report:
    """Measure a model against interpolations, or against its input.

    Args:
        model: name in the zoo or path of an ONNX file.
        clips, photos: folders, searched with everything below them; photos are only reduced.
        pictures: folders of published sets, one set each.
        sampling: what of a clip is measured.
        threads: of the model.

    Raises:
        TrainingError: model or data cannot serve.
    """
    enhancer = open_enhancer(model, threads)
    scale, methods = enhancer.scale, methods_of(enhancer)
    # At the same size a clean input is the original, over which nothing can gain.
    conditions = CLIP_CONDITIONS if scale > 1 else CLIP_CONDITIONS[1:]

    sets = picture_sets(pictures)

    def measure() -> Iterator[Row]:
        for path in _found(clips, CLIPS):
            sequence = read_clip(path, sampling.reduce, sampling.frames)
            _check_size(path, sequence[0][0], scale, SHAVE_PX)
            for condition, scores in score_clip(sequence, methods, scale, conditions, every=sampling.every).items():
                yield Row(CLIPS, path.stem, condition, scores)
        for path in _found(photos, PHOTOS) if scale > 1 else []:
            planes = read_photo(path)
            _check_size(path, planes[0], scale, SHAVE_PX)
            yield Row(PHOTOS, path.stem, str(CLEAN), compare(reduce_planes(planes, scale)[0], planes[0], methods))
        for name, paths in sets.items():
            for path in paths:
                for condition, scores in score_picture(path, methods, scale).items():
                    yield Row(name, path.stem, condition, scores)

    rows = tuple(measure())
    if not rows:
        raise TrainingError("nothing to evaluate on: give --clips, --photos or --pictures with usable files")
    return Report(model, rows, {name: _protocol(name, scale, sampling) for name in {row.set: None for row in rows}})


def picture_sets(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The pictures of published sets, by the names of their folders.

    Raises:
        TrainingError: a folder has no pictures, or the name of another set.
    """
    sets: dict[str, list[Path]] = {}
    for folder in folders:
        name = folder.absolute().name
        if name in sets or name in (CLIPS, PHOTOS):
            raise TrainingError(f"two sets are called {name}, one of them {folder}; rename it")
        if not folder.is_dir():
            raise TrainingError(f"folder {folder} does not exist; name folders that do")
        sets[name] = sorted(p for p in folder.glob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
        if not sets[name]:
            raise TrainingError(f"no pictures in {folder} itself; looked for {' '.join(sorted(PHOTO_SUFFIXES))}")
    return sets


def _found(folders: Sequence[Path], what: str) -> list[Path]:
    """The clips or photos below the folders. Raises TrainingError if there are folders, but none in them."""
    if not folders:
        return []
    all_photos, all_clips = find_files(folders)
    found = all_clips if what == CLIPS else all_photos
    if not found:
        raise TrainingError(f"no {what} in {', '.join(map(str, folders))}")
    return found


def _check_size(path: Path, luma: Luma, scale: int, shave_px: int) -> None:
    kept = min(luma.shape) // (2 * scale) * 2 * scale - 2 * shave_px
    if kept < SSIM_WINDOW_PX:
        raise TrainingError(
            f"{path} is too small: {luma.shape[1]}x{luma.shape[0]} px without a border of {shave_px} px must hold "
            f"{SSIM_WINDOW_PX} px each way, for SSIM; remove it"
        )


def _protocol(name: str, scale: int, sampling: Sampling) -> str:
    reduced = f"reduced by {scale} (antialiased bicubic), " if scale > 1 else ""
    if name == CLIPS:
        return f"luma {reduced}degraded (x264 veryfast, noise), border of {SHAVE_PX} px left out; {sampling}"
    if name == PHOTOS:
        return f"luma {reduced}border of {SHAVE_PX} px left out"
    if scale == 1:
        return "BT.601 luma through libjpeg"
    return f"as published: RGB {reduced}BT.601 luma, border of {scale} px left out"


def table(report: Report) -> str:
    """PSNR-Y in dB (SSIM) a line, and the gain over Lanczos or the input."""
    methods = list(report.rows[0].scores)
    lines = [f"{'set':36} {'condition':>17} {' '.join(f'{method:>15}' for method in methods)}  gain"]
    for row in (*report.rows, *report.means):
        if row.set != CLIPS and row.item != "mean":
            continue  # single pictures are many, and in the JSON
        cells = " ".join(f"{s.psnr_db:6.2f} ({s.ssim:.4f})" for s in row.scores.values())
        lines.append(f"{f'{row.set} {row.item}':36} {row.condition:>17} {cells}  {row.gain_db:+.3f}")
    return "\n".join(lines)


def command(args: argparse.Namespace) -> str:
    """`evaluate`: returns the table."""
    if args.json and not args.json.parent.is_dir():
        raise TrainingError(f"{args.json.parent} does not exist; --json takes a file in a folder that does")
    sampling = Sampling(args.frames, args.every, args.reduce)
    report = evaluate(args.model, args.clips, args.photos, args.pictures, sampling, args.threads)
    if args.json:
        found = asdict(report) | {"means": [asdict(row) for row in report.means]}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return table(report)
