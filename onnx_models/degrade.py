"""What streams suffer: reduction, blur, sensor noise and real video codecs.

Everything is drawn from one generator, so a seed reproduces a degradation; each result comes with
the parameters that were drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from onnx_models.codecs import CODECS, PRESETS, Coding, transcode
from onnx_models.kernels import box, cubic, lanczos, reduction_taps, triangle
from onnx_models.level import level_of_noise, level_of_qp, qp_of_step, step_of_qp
from onnx_models.limits import ANY_SIZE, COUNT, POSITIVE, SHARE, Limits, check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnx_models.kernels import Kernel
    from onnx_models.scenes import Plane, Planes

KERNELS: dict[str, Kernel] = {"bicubic": cubic, "lanczos": lanczos, "area": box, "bilinear": triangle}
CRF_LIMITS = Limits(0, 51)
"""Of 8-bit H.264."""


@dataclass(frozen=True)
class DegradeMix:
    """How degradations are drawn; shares are probabilities, ranges include their ends."""

    kernels: tuple[str, ...] = tuple(KERNELS)
    kernel_weights: tuple[float, ...] = (0.6, 0.2, 0.15, 0.05)
    blur_share: float = 0.08
    blur_sigma_px: tuple[float, float] = (0.3, 0.8)
    """Gaussian blur before the reduction, in pixels of the target."""
    motion_blur_share: float = 0.04
    motion_blur_px: tuple[int, int] = (2, 5)
    """Length of a straight motion during the exposure, in pixels of the target."""
    worn_share: float = 0.0
    """Share of originals that were compressed before. What that left of them is the target."""
    noise_share: float = 0.12
    noise_sigma: tuple[float, float] = (0.5, 6.0)
    """Sensor noise in 8-bit code values at mid grey, drawn on a logarithmic scale."""
    noise_correlated_share: float = 0.3
    sharpen_share: float = 0.08
    sharpen_amount: tuple[float, float] = (0.3, 1.2)
    """Unsharp mask of a camera; with its overshoots."""
    exposure_share: float = 0.1
    exposure_drift: float = 0.03
    """Largest relative change of brightness over a sequence, in input and target."""
    uncompressed_share: float = 0.1
    codecs: tuple[str, ...] = CODECS
    codec_weights: tuple[float, ...] = (0.72, 0.1, 0.04, 0.07, 0.07)
    double_share: float = 0.08
    """Share of compressed sequences that were compressed twice."""
    crf: tuple[int, int] = (12, 38)
    """Of H.264; the other codecs' qualities are drawn from a similar span."""
    presets: tuple[str, ...] = PRESETS
    preset_weights: tuple[float, ...] = (0.12, 0.18, 0.35, 0.1, 0.1, 0.15)
    zerolatency_share: float = 0.35
    keyint: tuple[int, int] = (6, 250)
    """Longest distance of key frames; drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        choices = {"kernels": tuple(KERNELS), "presets": PRESETS, "codecs": CODECS}
        for field, allowed in choices.items():
            given, weights = getattr(self, field), f"{field[:-1]}_weights"
            unknown = sorted(set(given) - set(allowed))
            if unknown:
                listed = ", ".join(allowed)
                raise ValueError(f"{field} has unknown {', '.join(unknown)}; allowed: {listed}")
            if len(given) != len(getattr(self, weights)):
                raise ValueError(f"{weights} needs one weight a {field[:-1]}")
            if not given:
                raise ValueError(f"{field} is empty; give at least one of {', '.join(allowed)}")
            check(self, {weights: ANY_SIZE})
            if not sum(getattr(self, weights)):
                raise ValueError(f"{weights} are all 0; raise one")
        shares = [field.name for field in fields(self) if field.name.endswith("_share")]
        sizes = dict.fromkeys(("blur_sigma_px", "motion_blur_px", "sharpen_amount"), ANY_SIZE)
        spans = sizes | {"noise_sigma": POSITIVE, "crf": CRF_LIMITS, "keyint": COUNT}
        check(self, dict.fromkeys((*shares, "exposure_drift"), SHARE), spans)


@dataclass(frozen=True)
class Degradation:
    """What is done to one sequence."""

    scale: int
    kernel: str
    blur_sigma_px: float
    motion_blur_px: int
    motion_angle: float
    noise_sigma: float
    noise_correlated: bool
    sharpen: float
    exposure: float
    worn: Coding | None
    """How the original was compressed before."""
    codings: tuple[Coding, ...]
    """One after the other; empty: not compressed."""


@dataclass(frozen=True)
class Received:
    """What a viewer gets, and what it should have been."""

    lumas: list[Plane]
    """uint8 `[H/scale, W/scale]`, one a frame."""
    targets: list[Plane]
    """uint8 `[H, W]`."""
    level: float
    """Of the compression, see `onnx_models.level`."""
    noise: float
    """What is left of the sensor's noise, on the same scale: the share of it that the codecs kept of `noise_sigma`.

    That isn't quite the noise in the picture: correlated noise is 0.89 times `noise_sigma`, and sharpening, which comes
    after it, makes it 1.2 to 2.0 times as strong. To tell those would change what pools hold without changing their
    names, and the shipped networks were trained with this.
    """


def reduce_luma(luma: NDArray[Any], scale: int, kind: str = "bicubic") -> NDArray[np.float32]:
    """Antialiased reduction of a plane whose sides are multiples of `scale`; not rounded."""
    values = luma.astype(np.float32)
    if scale == 1:
        return values
    taps, anchor = reduction_taps(KERNELS[kind], scale)
    filtered = cv2.sepFilter2D(values, -1, taps, taps, anchor=(anchor, anchor), borderType=cv2.BORDER_REFLECT)
    return np.ascontiguousarray(filtered[::scale, ::scale], np.float32)


def to_codes(values: NDArray[np.floating[Any]]) -> Plane:
    """Rounded and clipped to 8-bit code values."""
    codes: Plane = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def reduce_planes(planes: Planes, scale: int) -> Planes:
    """All planes reduced; luma bicubically, chroma by averaging. Sizes become even."""
    height, width = (side // (2 * scale) * 2 for side in planes[0].shape)
    luma = to_codes(reduce_luma(planes[0][: height * scale, : width * scale], scale))
    return luma, *_reduce_chroma(planes, width, height, scale)


def _reduce_chroma(planes: Planes, width: int, height: int, scale: int) -> tuple[Plane, Plane]:
    size = (width // 2, height // 2)
    rows, cols = height // 2 * scale, width // 2 * scale
    u, v = (
        np.asarray(cv2.resize(plane[:rows, :cols], size, interpolation=cv2.INTER_AREA), np.uint8)
        for plane in planes[1:]
    )
    return u, v


_SPANS = {"hevc": (14, 40), "mpeg2": (2, 24), "vp9": (8, 52), "jpeg": (12, 95)}
"""Qualities of the other codecs, about as far apart as H.264's CRF 12 and 38."""


def draw(mix: DegradeMix, scale: int, rng: np.random.Generator) -> Degradation:
    """Parameters of one degradation."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def pick(names: tuple[str, ...], weights: tuple[float, ...]) -> str:
        share = np.array(weights) / sum(weights)
        return names[int(rng.choice(len(names), p=share))]

    def log_uniform(span: tuple[float, float]) -> float:
        return float(np.exp(rng.uniform(*np.log(span))))

    def coding() -> Coding:
        codec = pick(mix.codecs, mix.codec_weights)
        low, high = mix.crf if codec == "h264" else _SPANS[codec]
        quality = round(log_uniform((low, high))) if codec == "mpeg2" else int(rng.integers(low, high + 1))
        preset = pick(mix.presets, mix.preset_weights)
        return Coding(codec, quality, preset, chance(mix.zerolatency_share), round(log_uniform(mix.keyint)))

    times = 0 if chance(mix.uncompressed_share) else 2 if chance(mix.double_share) else 1
    return Degradation(
        scale=scale,
        kernel=pick(mix.kernels, mix.kernel_weights),
        blur_sigma_px=float(rng.uniform(*mix.blur_sigma_px)) if chance(mix.blur_share) else 0.0,
        motion_blur_px=int(rng.integers(*mix.motion_blur_px, endpoint=True)) if chance(mix.motion_blur_share) else 0,
        motion_angle=float(rng.uniform(0, np.pi)),
        noise_sigma=log_uniform(mix.noise_sigma) if chance(mix.noise_share) else 0.0,
        noise_correlated=chance(mix.noise_correlated_share),
        sharpen=float(rng.uniform(*mix.sharpen_amount)) if chance(mix.sharpen_share) else 0.0,
        exposure=float(rng.uniform(-1, 1)) * mix.exposure_drift if chance(mix.exposure_share) else 0.0,
        worn=coding() if mix.worn_share and chance(mix.worn_share) else None,
        codings=tuple(coding() for _ in range(times)),
    )


def _add_noise(values: NDArray[np.float32], how: Degradation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Poisson-Gaussian noise: variance grows with the signal, `noise_sigma` at mid grey."""
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    if how.noise_correlated:  # demosaicing and in-camera denoising leave coarse grain
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.6), np.float32) * 1.8
    sigma = how.noise_sigma * np.sqrt(0.4 + 0.6 * np.clip(values, 0, 255) / 128)
    return np.asarray(values + noise * sigma, np.float32)


def _motion_kernel(length_px: int, angle: float) -> NDArray[np.float32]:
    """A straight line of that length, antialiased, sum 1."""
    side = 2 * (length_px // 2 + 1) + 1
    offset = np.array([np.cos(angle), np.sin(angle)]) * length_px / 2
    ends = [np.rint((side // 2 + sign * offset) * 16).astype(int).tolist() for sign in (-1, 1)]
    line = cv2.line(np.zeros((side, side), np.uint8), ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
    return np.asarray(line / line.sum(), np.float32)


def _seen(luma: NDArray[np.float32], how: Degradation, rng: np.random.Generator | None) -> NDArray[np.float32]:
    """What the camera makes of the scene: blurred, reduced, noisy (if `rng` is given), sharpened."""
    if how.blur_sigma_px:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), how.blur_sigma_px), np.float32)
    if how.motion_blur_px:
        kernel = _motion_kernel(how.motion_blur_px, how.motion_angle)
        luma = np.asarray(cv2.filter2D(luma, -1, kernel, borderType=cv2.BORDER_REFLECT), np.float32)
    luma = reduce_luma(luma, how.scale, how.kernel)
    if rng is not None:
        luma = _add_noise(luma, how, rng)
    if how.sharpen:
        luma = luma + how.sharpen * (luma - np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0), np.float32))
    return luma


def _exposed(luma: NDArray[np.float32], gain: float) -> NDArray[np.float32]:
    """Brighter or darker, black (16) fixed."""
    return np.asarray((luma - 16) * np.float32(gain) + 16, np.float32)


def kept_share(
    sent: tuple[Sequence[Plane], Sequence[Plane]], received: tuple[Sequence[Plane], Sequence[Plane]]
) -> float:
    """How much of the noise that was sent is in what was received, 0..1, by least squares.

    Both are the same frames with noise and without. Projecting on the noise itself leaves out what else the codec does
    differently.
    """
    before, after = (np.stack(noisy).astype(np.float32) - np.stack(clean) for noisy, clean in (sent, received))
    power = float(np.vdot(before, before))
    return min(1.0, max(0.0, float(np.vdot(before, after)) / power)) if power else 0.0


def degrade(sequence: Sequence[Planes], how: Degradation, rng: np.random.Generator) -> Received:
    """What a viewer would receive of a sequence.

    Args:
        sequence: target frames; cropped to multiples of `2 * scale`.
        how: parameters, as `draw` gives them.
        rng: source of the noise itself.
    """
    if how.worn is not None:
        sequence = transcode(sequence, how.worn).sequence
    rows, cols = (side // (2 * how.scale) * 2 * how.scale for side in sequence[0][0].shape)
    lumas = [
        _exposed(planes[0][:rows, :cols].astype(np.float32), 1 + how.exposure * t / len(sequence))
        for t, planes in enumerate(sequence)
    ]
    chroma = [_reduce_chroma(planes, cols // how.scale, rows // how.scale, how.scale) for planes in sequence]

    def camera(noise: np.random.Generator | None) -> list[Planes]:
        return [(to_codes(_seen(y, how, noise)), *_grainy(uv, how, noise)) for y, uv in zip(lumas, chroma, strict=True)]

    clean, targets = camera(None), [to_codes(luma) for luma in lumas]
    received, level = _through(clean, how.codings)
    if not how.noise_sigma:
        return Received(received, targets, level, noise=0.0)
    noisy = camera(rng)
    grainy, level = _through(noisy, how.codings)
    sent = ([planes[0] for planes in noisy], [planes[0] for planes in clean])
    return Received(grainy, targets, level, level_of_noise(how.noise_sigma * kept_share(sent, (grainy, received))))


def _grainy(chroma: tuple[Plane, Plane], how: Degradation, noise: np.random.Generator | None) -> tuple[Plane, Plane]:
    if noise is None:
        return chroma
    u, v = (to_codes(_add_noise(plane.astype(np.float32), how, noise)) for plane in chroma)
    return u, v


def _through(sequence: list[Planes], codings: Sequence[Coding]) -> tuple[list[Plane], float]:
    """Luma planes after the codecs, and their level; errors of several add as variances."""
    error = 0.0
    for coding in codings:
        decoded = transcode(sequence, coding)
        sequence, error = decoded.sequence, error + step_of_qp(decoded.qp) ** 2
    return [planes[0] for planes in sequence], level_of_qp(qp_of_step(math.sqrt(error)))
