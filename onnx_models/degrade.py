"""What streams suffer: reduction, blur, sensor noise and real video codecs.

Everything is drawn from one generator, so a seed reproduces a degradation; each result comes with
the parameters that were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import cv2
import numpy as np

from onnx_models.errors import TrainingError
from onnx_models.kernels import box, cubic, lanczos, reduction_taps, triangle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnx_models.kernels import Kernel
    from onnx_models.scenes import Plane, Planes

KERNELS: dict[str, Kernel] = {"bicubic": cubic, "lanczos": lanczos, "area": box, "bilinear": triangle}
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")


@dataclass(frozen=True)
class DegradeMix:
    """How degradations are drawn; shares are probabilities."""

    kernels: tuple[str, ...] = tuple(KERNELS)
    kernel_weights: tuple[float, ...] = (0.6, 0.2, 0.15, 0.05)
    blur_share: float = 0.08
    blur_sigma_px: tuple[float, float] = (0.3, 0.8)
    """Blur before the reduction, in pixels of the target."""
    noise_share: float = 0.25
    noise_sigma: tuple[float, float] = (0.5, 2.5)
    """Sensor noise in 8-bit code values at mid grey."""
    noise_correlated_share: float = 0.3
    uncompressed_share: float = 0.08
    crf: tuple[int, int] = (14, 28)
    crf_heavy: tuple[int, int] = (28, 35)
    heavy_share: float = 0.12
    """Share of compressed sequences whose CRF is drawn from `crf_heavy`; ends included."""
    presets: tuple[str, ...] = PRESETS
    preset_weights: tuple[float, ...] = (0.12, 0.18, 0.35, 0.1, 0.1, 0.15)
    zerolatency_share: float = 0.35
    keyint: tuple[int, int] = (6, 250)
    """Longest distance of key frames; drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        for field, allowed in (("kernels", tuple(KERNELS)), ("presets", PRESETS)):
            unknown = sorted(set(getattr(self, field)) - set(allowed))
            if unknown:
                listed = ", ".join(allowed)
                raise ValueError(f"{field} has unknown {', '.join(unknown)}; allowed: {listed}")
        if len(self.kernels) != len(self.kernel_weights):
            raise ValueError("kernel_weights needs one weight a kernel")
        if len(self.presets) != len(self.preset_weights):
            raise ValueError("preset_weights needs one weight a preset")


@dataclass(frozen=True)
class Degradation:
    """What was done to one sequence."""

    scale: int
    kernel: str
    blur_sigma_px: float
    noise_sigma: float
    noise_correlated: bool
    crf: int | None
    """None: not compressed."""
    preset: str
    zerolatency: bool
    keyint: int


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


def reduce_planes(planes: Planes, scale: int, kind: str = "bicubic") -> Planes:
    """All planes reduced; luma by `kind`, chroma by averaging. Sizes become even."""
    height, width = (side // (2 * scale) * 2 for side in planes[0].shape)
    luma = to_codes(reduce_luma(planes[0][: height * scale, : width * scale], scale, kind))
    return luma, *_reduce_chroma(planes, width, height, scale)


def _reduce_chroma(planes: Planes, width: int, height: int, scale: int) -> tuple[Plane, Plane]:
    size = (width // 2, height // 2)
    rows, cols = height // 2 * scale, width // 2 * scale
    u, v = (
        np.asarray(cv2.resize(plane[:rows, :cols], size, interpolation=cv2.INTER_AREA), np.uint8)
        for plane in planes[1:]
    )
    return u, v


def encode_decode(
    sequence: Sequence[Planes],
    *,
    crf: int,
    preset: str = "veryfast",
    zerolatency: bool = False,
    keyint: int = 250,
) -> tuple[list[Plane], int]:
    """A sequence through x264 and back.

    Returns:
        Decoded luma planes, one a frame, and the size of the stream in bytes.

    Raises:
        TrainingError: this PyAV has no x264, or frames were lost.
    """
    height, width = sequence[0][0].shape
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except av.error.FFmpegError as error:
        raise TrainingError("this PyAV build has no libx264; install the PyPI wheel") from error
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.thread_count = 1
    options = {"crf": str(crf), "preset": preset, "g": str(keyint), "threads": "1"}
    encoder.options = options | ({"tune": "zerolatency"} if zerolatency else {})
    packets = []
    for i, planes in enumerate(sequence):
        stacked = np.concatenate([plane.reshape(-1) for plane in planes])
        frame = av.VideoFrame.from_ndarray(stacked.reshape(-1, width), format="yuv420p")
        frame.pts, frame.time_base = i, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [f for p in packets for f in decoder.decode(av.Packet(bytes(p)))]
    frames += decoder.decode(None)
    if len(frames) != len(sequence):
        raise TrainingError(f"x264 returned {len(frames)} of {len(sequence)} frames")
    decoded = (f.to_ndarray(format="yuv420p") for f in frames)
    lumas = [np.ascontiguousarray(stacked[:height], np.uint8) for stacked in decoded]
    return lumas, sum(p.size for p in packets)


def draw(mix: DegradeMix, scale: int, rng: np.random.Generator) -> Degradation:
    """Parameters of one degradation."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def pick(names: tuple[str, ...], weights: tuple[float, ...]) -> str:
        share = np.array(weights) / sum(weights)
        return names[int(rng.choice(len(names), p=share))]

    blur = float(rng.uniform(*mix.blur_sigma_px)) if chance(mix.blur_share) else 0.0
    noise = float(rng.uniform(*mix.noise_sigma)) if chance(mix.noise_share) else 0.0
    low, high = mix.crf_heavy if chance(mix.heavy_share) else mix.crf
    crf = int(rng.integers(low, high + 1))
    return Degradation(
        scale=scale,
        kernel=pick(mix.kernels, mix.kernel_weights),
        blur_sigma_px=blur,
        noise_sigma=noise,
        noise_correlated=chance(mix.noise_correlated_share),
        crf=None if chance(mix.uncompressed_share) else crf,
        preset=pick(mix.presets, mix.preset_weights),
        zerolatency=chance(mix.zerolatency_share),
        keyint=round(float(np.exp(rng.uniform(*np.log(mix.keyint))))),
    )


def _add_noise(luma: NDArray[np.float32], how: Degradation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Poisson-Gaussian noise: variance grows with the signal, `noise_sigma` at mid grey."""
    noise = rng.standard_normal(luma.shape, dtype=np.float32)
    if how.noise_correlated:  # demosaicing and in-camera denoising leave coarse grain
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.6), np.float32) * 1.8
    sigma = how.noise_sigma * np.sqrt(0.4 + 0.6 * np.clip(luma, 0, 255) / 128)
    return np.asarray(luma + noise * sigma, np.float32)


def degrade(sequence: Sequence[Planes], how: Degradation, rng: np.random.Generator) -> list[Plane]:
    """What a viewer would receive: decoded luma planes, one a frame, uint8 `[H/scale, W/scale]`.

    Args:
        sequence: target frames whose sides are multiples of `2 * scale`.
        how: parameters, as `draw` gives them.
        rng: source of the noise itself.
    """
    low: list[Planes] = []
    for planes in sequence:
        luma = planes[0].astype(np.float32)
        if how.blur_sigma_px:
            luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), how.blur_sigma_px), np.float32)
        luma = reduce_luma(luma, how.scale, how.kernel)
        if how.noise_sigma:
            luma = _add_noise(luma, how, rng)
        chroma = _reduce_chroma(planes, luma.shape[1], luma.shape[0], how.scale)
        low.append((to_codes(luma), *chroma))
    if how.crf is None:
        return [planes[0] for planes in low]
    lumas, _ = encode_decode(low, crf=how.crf, preset=how.preset, zerolatency=how.zerolatency, keyint=how.keyint)
    return lumas
