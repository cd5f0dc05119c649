"""Streams of known level and noise: clean material after noise of known deviation, encoders of known quantisers, both.

The material is reduced by 2 first, so that its own noise and compression all but vanish. The truth is what
`onnx_models.degrade` tells networks in training: the quantiser, and what encoders left of the noise. Everything is
drawn from a generator that a source's name seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.errors import BenchmarkError
from onnx_models.codecs import PRESETS, Coding, transcode
from onnx_models.degrade import kept_share, reduce_planes, to_codes
from onnx_models.level import qp_of_step, step_of_qp
from onnx_models.scenes import Planes, SceneMix, Scenes, find_files, read_clip

FRAMES, KEPT = 12, (0, 5, 11)
"""Length of a sequence, and which of its pictures are looked at: different types, for most encoders."""
_PHOTOS = SceneMix(
    width_px=960, height_px=576, smallest_px=128, frames=FRAMES, shrink_share=0, soften_share=0.6,
    soften_sigma_px=(0.4, 3.5),
)  # fmt: skip
_CLIP_FRAMES = 90
_SMALLEST_PX = 100
"""Clips whose reduced pictures are smaller are left out: there is too little to see."""
_SEQUENCES = 3
_CORRELATED_SHARE, _POISSON_SHARE, _ZEROLATENCY_SHARE, _SHORT_SHARE, _SHARPEN_SHARE = 0.33, 0.5, 0.35, 0.3, 0.25
_SHORT_KEYINT = 6
_SHARPEN_AMOUNT = 0.3, 1.2

CODINGS = {"h264": (10, 44, 5), "hevc": (14, 44, 5), "vp9": (4, 60, 4), "mpeg2": (2, 31, 2), "jpeg": (12, 95, 3)}
"""From and to which quality each codec is tried (see `onnx_models.codecs.Coding`), and how often."""
TELLING = ("h264", "mpeg2")
"""Codecs whose decoders tell the quantiser."""
_NOISE_SIGMA, _NOISE_CASES = (0.5, 15.0), 3
_NOISY_SIGMA, _NOISY_SHARE = (0.5, 10.0), 0.6
"""Of sequences that are compressed, and how many of them are compressed with noise, too."""

Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """The pictures KEPT of one sequence after one degradation."""

    kind: str
    qp: float
    """The truth: the quantisation parameter of the compression, -inf for none."""
    noise_qp: float
    """The truth: the quantisation parameter with the error of the noise that is left, -inf for none."""
    told: float | None
    """What the decoder tells of the compression."""
    frames: tuple[Luma, ...]


def degraded(folders: Sequence[Path]) -> Iterator[tuple[str, Case]]:
    """Every source below the folders, by name, in every kind of degradation. Raises TrainingError, BenchmarkError."""
    photos, clips = find_files(folders)
    for path in (*photos, *clips):
        rng = np.random.default_rng(crc32(path.name.encode()))
        if path in clips:
            clip = read_clip(path, 2, _CLIP_FRAMES)
            if len(clip) < FRAMES:
                raise BenchmarkError(f"clip {path} has {len(clip)} frames, {FRAMES} are needed; remove it")
            if min(clip[0][0].shape) < _SMALLEST_PX:
                continue
            clean = [_part(clip, rng) for _ in range(_SEQUENCES)]
        else:
            scenes = Scenes([path], [], _PHOTOS)
            clean = [[reduce_planes(planes, 2) for planes in scenes.draw(rng)] for _ in range(_SEQUENCES)]
        for case in cases_of([_perhaps_sharpened(sequence, rng) for sequence in clean], rng):
            yield path.name, case


def _part(clip: list[Planes], rng: np.random.Generator) -> list[Planes]:
    start = int(rng.integers(len(clip) - FRAMES + 1))
    return clip[start : start + FRAMES]


def _perhaps_sharpened(sequence: list[Planes], rng: np.random.Generator) -> list[Planes]:
    """As many cameras do it, with overshoots: detail is not noise."""
    amount = float(rng.uniform(*_SHARPEN_AMOUNT))
    if rng.random() >= _SHARPEN_SHARE:
        return sequence
    return [(_sharpened(luma, amount), u, v) for luma, u, v in sequence]


def _sharpened(luma: Luma, amount: float) -> Luma:
    soft = np.asarray(cv2.GaussianBlur(luma.astype(np.float32), (0, 0), 1.0), np.float32)
    return to_codes(luma + np.float32(amount) * (luma - soft))


def cases_of(clean: Sequence[list[Planes]], rng: np.random.Generator) -> Iterator[Case]:
    """All kinds of degradation, each at strengths from all over its range."""
    for sequence in clean:
        yield _case("clean", sequence)
    low, high = np.log(_NOISE_SIGMA)
    for number, strength in enumerate(_spread(low, high, _NOISE_CASES, rng)):
        sigma = math.exp(strength)
        yield _case("noise", with_noise(clean[number % len(clean)], sigma, rng), sigma=sigma)
    for codec, (lowest, highest, count) in CODINGS.items():
        for number, quality in enumerate(_spread(lowest, highest, count, rng)):
            yield from _compressed(clean[number % len(clean)], _coding(codec, quality, rng), rng)
    once = transcode(clean[0], _drawn(str(rng.choice(list(CODINGS))), rng))
    twice = transcode(once.sequence, _drawn("h264", rng))
    total = math.hypot(step_of_qp(once.qp), step_of_qp(twice.qp))
    yield _case("twice", twice.sequence, qp_of_step(total), told=twice.qp)


def _compressed(clean: list[Planes], coding: Coding, rng: np.random.Generator) -> Iterator[Case]:
    """A sequence after an encoder; perhaps a second time with noise, of which the same encoder leaves something."""
    decoded = transcode(clean, coding)
    yield _case(coding.codec, decoded.sequence, decoded.qp, told=decoded.qp if coding.codec in TELLING else None)
    if rng.random() >= _NOISY_SHARE:
        return
    sigma = float(np.exp(rng.uniform(*np.log(_NOISY_SIGMA))))
    noisy = with_noise(clean, sigma, rng)
    grainy = transcode(noisy, coding)
    share = kept_share((_lumas(noisy), _lumas(clean)), (_lumas(grainy.sequence), _lumas(decoded.sequence)))
    told = grainy.qp if coding.codec in TELLING else None
    yield _case(f"noise, {coding.codec}", grainy.sequence, grainy.qp, told=told, sigma=sigma * share)


def _spread(low: float, high: float, count: int, rng: np.random.Generator) -> list[float]:
    """One number from each of `count` equal parts of a range."""
    return [low + (high - low) * (part + float(rng.random())) / count for part in range(count)]


def _drawn(codec: str, rng: np.random.Generator) -> Coding:
    low, high, _ = CODINGS[codec]
    return _coding(codec, float(rng.uniform(low, high)), rng)


def _coding(codec: str, quality: float, rng: np.random.Generator) -> Coding:
    presets = PRESETS[:3] if codec == "hevc" else PRESETS  # the others take long
    keyint = _SHORT_KEYINT if rng.random() < _SHORT_SHARE else 250
    return Coding(codec, round(quality), str(rng.choice(presets)), bool(rng.random() < _ZEROLATENCY_SHARE), keyint)


def _case(
    kind: str, sequence: Sequence[Planes], qp: float = -math.inf, *, told: float | None = None, sigma: float = 0.0
) -> Case:
    noise_qp = qp_of_step(sigma * math.sqrt(12))
    return Case(kind, qp, noise_qp, told, tuple(sequence[index][0] for index in KEPT))


def _lumas(sequence: Sequence[Planes]) -> list[Luma]:
    return [planes[0] for planes in sequence]


def with_noise(sequence: Sequence[Planes], sigma: float, rng: np.random.Generator) -> list[Planes]:
    """Noise in luma, of this deviation in code values at mid grey: white or coarser, constant or like a sensor's."""
    correlated, poisson = rng.random() < _CORRELATED_SHARE, rng.random() < _POISSON_SHARE
    noisy: list[Planes] = []
    for luma, u, v in sequence:
        noise = rng.standard_normal(luma.shape, dtype=np.float32)
        if correlated:
            noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.6), np.float32) * 1.8
        gain = np.sqrt(0.4 + 0.6 * luma.astype(np.float32) / 128) if poisson else 1.0
        noisy.append((to_codes(luma + noise * gain * np.float32(sigma)), u, v))
    return noisy
