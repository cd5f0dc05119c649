"""How close one video is to another: PSNR and SSIM on luma, VMAF where it is installed, flicker if asked for.

Frames are paired by their number, not by their time. PSNR and SSIM see the planes that the decoder gives; a distorted
video of another bit depth is scaled to the reference's code values, without rounding. Memory doesn't grow with length.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from streamer.color import range_of
from streamer.errors import UsageError
from streamer.flicker import FlickerMeter
from streamer.frame import FULL, UNSPECIFIED, Frame, VideoFormat
from streamer.sources import make_source
from streamer.vmaf import VmafError, measure_vmaf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamer.stage import Source

log = logging.getLogger(__name__)

Luma = npt.NDArray[np.float64]

WINDOW_PX = 11


@dataclass(frozen=True, slots=True)
class Report:
    """What a comparison found. All figures are on luma at full resolution; the peak of PSNR is 2**bits - 1.

    `psnr_y` in dB is the mean over frames, as in codec tests and super-resolution papers; frames without any error
    would make it infinite, so they are left out and counted in `identical_frames`. `psnr_y_pooled` in dB is that of the
    mean squared error of all frames, as FFmpeg's psnr filter reports. Both are infinite for identical videos. `ssim_y`
    is the mean over frames, at most 1. `vmaf` (v0.6.1) and `vmaf_neg` (v0.6.1neg, which doesn't reward mere
    sharpening) run from 0 to 100; None if they couldn't be measured, and `vmaf_missing` says why. The errors between
    frames are those of `streamer.flicker`; None if not asked for. `frames` were compared; `notes` are the warnings that
    were logged.
    """

    reference: str
    distorted: str
    size: str
    bits: int
    frames: int
    identical_frames: int
    psnr_y: float
    psnr_y_pooled: float
    ssim_y: float
    vmaf: float | None
    vmaf_neg: float | None
    vmaf_missing: str | None
    difference_error: float | None
    warping_error: float | None
    reference_warping_error: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: an infinite PSNR is the string "inf"."""
        return {key: "inf" if value == math.inf else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        rows = [
            ("frames", f"{self.frames} of {self.size}, {self.bits} bits; {self.identical_frames} identical"),
            ("PSNR-Y", f"{self.psnr_y:.3f} dB (mean of frames)"),
            ("", f"{self.psnr_y_pooled:.3f} dB (of the mean squared error)"),
            ("SSIM-Y", f"{self.ssim_y:.5f}"),
            ("VMAF", self._score(self.vmaf, "v0.6.1")),
            ("VMAF NEG", self._score(self.vmaf_neg, "v0.6.1neg")),
        ]
        if self.difference_error is not None:
            rows.append(("flicker", f"{self.difference_error:.3f} codes (change of the error from frame to frame)"))
        if self.warping_error is not None and self.reference_warping_error is not None:
            own, reference = self.warping_error * 1e3, self.reference_warping_error * 1e3
            rows.append(("", f"{own:.3f}e-3 (warping error; the reference's own: {reference:.3f}e-3)"))
        return "\n".join(f"{name:10}{value}" for name, value in rows)

    def _score(self, value: float | None, model: str) -> str:
        return f"not measured: {self.vmaf_missing}" if value is None else f"{value:.2f} ({model})"


class Meter(Protocol):
    """Accumulates one measure over pairs of frames. A measure across time keeps what it needs of earlier pairs."""

    def add(self, reference: Luma, distorted: Luma) -> None:
        """Takes the next pair: code values [height, width] on the reference's scale."""


class PsnrMeter:
    """Peak signal-to-noise ratio against `peak`, per frame and pooled (see Report)."""

    def __init__(self, peak: float) -> None:
        self.identical_frames = 0
        self._peak2 = peak * peak
        self._squared_errors: list[float] = []

    def add(self, reference: Luma, distorted: Luma) -> None:
        difference = (reference - distorted).ravel()
        error = float(difference @ difference) / difference.size
        self._squared_errors.append(error)
        self.identical_frames += error == 0

    @property
    def mean(self) -> float:
        """Over the frames that differ, in dB; infinite if none does."""
        values = [self._decibels(error) for error in self._squared_errors if error]
        return math.fsum(values) / len(values) if values else math.inf

    @property
    def pooled(self) -> float:
        """Of the mean squared error over all frames, in dB."""
        return self._decibels(math.fsum(self._squared_errors) / len(self._squared_errors))

    def _decibels(self, squared_error: float) -> float:
        return 10 * math.log10(self._peak2 / squared_error) if squared_error else math.inf


class SsimMeter:
    """Structural similarity, mean over the picture and over frames.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Trans. Image Processing 13-4, 2004: Gaussian window of 11x11 px with sigma 1.5, K1 0.01, K2 0.03, only windows that
    lie inside the picture, without reducing the picture first. FFmpeg's ssim filter differs: it averages 8x8 blocks.
    """

    def __init__(self, peak: float) -> None:
        self._c1, self._c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        self._values: list[float] = []

    def add(self, reference: Luma, distorted: Luma) -> None:
        x, y = _windowed(reference), _windowed(distorted)
        variance_x = _windowed(reference * reference) - x * x
        variance_y = _windowed(distorted * distorted) - y * y
        covariance = _windowed(reference * distorted) - x * y
        above = (2 * x * y + self._c1) * (2 * covariance + self._c2)
        below = (x * x + y * y + self._c1) * (variance_x + variance_y + self._c2)
        self._values.append(float(np.mean(above / below)))

    @property
    def mean(self) -> float:
        return math.fsum(self._values) / len(self._values)


def compare_files(reference: str, distorted: str, *, temporal: bool = False) -> Report:
    """Compares two videos or pictures of one size, frame by frame; with `temporal`, also from frame to frame.

    Differing counts or times of frames are logged as warnings: the frames that both have are compared. Raises
    UsageError if the pictures can't be compared (another size or range, or smaller than the window of SSIM),
    SourceError if one can't be read.
    """
    with _opened(reference) as first, _opened(distorted) as second:
        notes = _Notes()
        _check_comparable(first.format, second.format, notes)
        peak = float((1 << first.format.layout.bits) - 1)
        psnr, ssim = PsnrMeter(peak), SsimMeter(peak)
        flicker = FlickerMeter(peak)
        frames = _walk(first, second, (psnr, ssim, flicker) if temporal else (psnr, ssim), notes)
        vmaf: dict[str, float | None] = {}
        missing = None
        try:
            vmaf.update(measure_vmaf(reference, distorted, frames=frames, pix_fmt=first.format.pix_fmt))
        except VmafError as error:
            missing = str(error)
        return Report(
            reference=reference,
            distorted=distorted,
            size=f"{first.format.width}x{first.format.height}",
            bits=first.format.layout.bits,
            frames=frames,
            identical_frames=psnr.identical_frames,
            psnr_y=psnr.mean,
            psnr_y_pooled=psnr.pooled,
            ssim_y=ssim.mean,
            vmaf=vmaf.get("vmaf"),
            vmaf_neg=vmaf.get("vmaf_neg"),
            vmaf_missing=missing,
            difference_error=flicker.difference_error,
            warping_error=flicker.warping_error,
            reference_warping_error=flicker.reference_warping_error,
            notes=tuple(notes),
        )


class _Notes(list[str]):
    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self.append(text)


@contextmanager
def _opened(url: str) -> Iterator[Source]:
    source = make_source(url)
    source.open()
    try:
        yield source
    finally:
        source.close()


def _check_comparable(reference: VideoFormat, distorted: VideoFormat, notes: _Notes) -> None:
    width, height = reference.width, reference.height
    if (width, height) != (distorted.width, distorted.height):
        raise UsageError(
            f"can't compare {width}x{height} with {distorted.width}x{distorted.height}: give an original and a result "
            "of one size. To judge an upscaler, reduce the original, enhance that, and compare it with the original"
        )
    if min(width, height) < WINDOW_PX:
        raise UsageError(f"can't compare pictures of {width}x{height}: SSIM needs {WINDOW_PX}x{WINDOW_PX} or more")
    ranges = ["full" if range_of(video.color) == FULL else "limited" for video in (reference, distorted)]
    if ranges[0] != ranges[1]:
        raise UsageError(
            f"can't compare {ranges[0]} with {ranges[1]} range: the same light has other code values; convert the "
            f"distorted one by ffmpeg -i FILE -vf scale=out_range={ranges[0]}, or correct its tag"
        )
    for name in ("matrix", "transfer"):
        ours, theirs = getattr(reference.color, name), getattr(distorted.color, name)
        if ours != theirs and UNSPECIFIED not in (ours, theirs):
            notes.warn(f"the colour {name} differs ({ours} and {theirs}): the same luma means other light")


def _walk(first: Source, second: Source, meters: Sequence[Meter], notes: _Notes) -> int:
    """Feeds the meters with every pair of frames; returns how many pairs there were."""
    factor = _code_factor(second.format, first.format)
    counts = [0, 0]
    pairs, shifted_at, starts = 0, None, None
    for ours, theirs in zip_longest(_frames(first), _frames(second)):
        counts[0] += ours is not None
        counts[1] += theirs is not None
        if ours is None or theirs is None:
            continue  # the rest of the longer one is only counted
        starts = starts or (ours.time, theirs.time)
        apart = abs((ours.time - starts[0]) - (theirs.time - starts[1]))
        if shifted_at is None and apart > max(ours.time_base, theirs.time_base):
            shifted_at = pairs
        luma = ours.planes[0].astype(np.float64)
        other = theirs.planes[0].astype(np.float64)
        other *= factor
        for meter in meters:
            meter.add(luma, other)
        pairs += 1
    if counts[0] != counts[1]:
        notes.warn(f"{counts[0]} and {counts[1]} frames: only the first {pairs} are compared, paired by number")
    if shifted_at is not None:
        notes.warn(
            f"the times of the frames differ from frame {shifted_at} on: they are paired by number nevertheless, which "
            "compares different moments if frames were dropped or repeated"
        )
    return pairs


def _frames(source: Source) -> Iterator[Frame]:
    while (frame := source.read()) is not None:
        yield frame


def _code_factor(source: VideoFormat, target: VideoFormat) -> float:
    """What turns luma code values of one depth into another's: limited range shifts, full range stretches (H.273)."""
    if range_of(target.color) == FULL:
        return ((1 << target.layout.bits) - 1) / ((1 << source.layout.bits) - 1)
    return float(2.0 ** (target.layout.bits - source.layout.bits))


def _windowed(values: Luma) -> Luma:
    """Weighted means over all windows that lie inside `values`."""
    edge = WINDOW_PX // 2
    blurred = cv2.GaussianBlur(values, (WINDOW_PX, WINDOW_PX), 1.5)
    return np.asarray(blurred[edge:-edge, edge:-edge], np.float64)
