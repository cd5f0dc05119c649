"""The comparison of two videos: figures against hand-computed and independent ones, and what can't be compared."""

from __future__ import annotations

import importlib
import json
import logging
import math
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from streamer.compare import PsnrMeter, Report, SsimMeter, compare_files
from streamer.errors import UsageError
from streamer.frame import FULL, LIMITED, ColorSpec, Frame, VideoFormat
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.media import MediaSink
from streamer.stage import Media
from streamer.vmaf import VmafError, measure_vmaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Plane = npt.NDArray[Any]
    Write = Callable[..., str]

WIDTH, HEIGHT = 32, 24
HAS_VMAF = importlib.util.find_spec("imageio_ffmpeg") is not None


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    """Writes lumas [height, width] as a lossless video; returns its name."""
    count = 0

    def write(
        lumas: Sequence[Plane], *, pix_fmt: str = "gray", code_range: int = LIMITED, times: Sequence[int] | None = None
    ) -> str:
        nonlocal count
        count += 1
        path = str(tmp_path / f"{count}.mkv")
        height, width = lumas[0].shape
        video = VideoFormat(width, height, pix_fmt, ColorSpec(range=code_range), rate=Fraction(25))
        sink = MediaSink(path, EncoderSettings("ffv1"))
        sink.open(video, Media())
        for index, luma in enumerate(lumas):
            pts = index * 40 if times is None else times[index]
            shapes = video.layout.shapes(width, height)[1:]
            gray = [np.full(shape, 1 << (video.layout.bits - 1), video.layout.dtype) for shape in shapes]
            planes = (np.ascontiguousarray(luma, video.layout.dtype), *gray)
            sink.write(Frame(planes, video, pts, Fraction(1, 1000), 40, index, 0))
        sink.close()
        return path

    return write


@pytest.fixture(name="without_vmaf")
def _without_vmaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


def flat(code: int, *, height: int = HEIGHT, width: int = WIDTH) -> Plane:
    return np.full((height, width), code)


def texture(seed: int, *, height: int = HEIGHT, width: int = WIDTH, low: int = 16, high: int = 235) -> Plane:
    return np.random.default_rng(seed).integers(low, high, (height, width))


def reference_ssim(x: Plane, y: Plane, peak: float) -> float:
    """Wang et al. 2004 written out window by window: no separable filter, no OpenCV."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a = x[row : row + 11, column : column + 11].astype(np.float64)
            b = y[row : row + 11, column : column + 11].astype(np.float64)
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            values.append(above / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    return float(np.mean(values))


@pytest.mark.usefixtures("without_vmaf")
def test_psnr_by_hand(write: Write) -> None:
    """Errors of 0, 2 and 4 codes: the mean is over the two that differ, pooled is of all three."""
    reference = write([flat(100)] * 3)
    distorted = write([flat(100), flat(102), flat(96)])
    report = compare_files(reference, distorted)
    expected = [10 * math.log10(255**2 / error) for error in (4, 16)]
    assert report.psnr_y == pytest.approx(sum(expected) / 2)
    assert report.psnr_y_pooled == pytest.approx(10 * math.log10(255**2 / ((0 + 4 + 16) / 3)))
    assert (report.frames, report.identical_frames, report.size, report.bits) == (3, 1, "32x24", 8)
    assert report.notes == ()


@pytest.mark.usefixtures("without_vmaf")
def test_identical_videos(write: Write) -> None:
    name = write([texture(1), texture(2)])
    report = compare_files(name, name)
    assert report.psnr_y == report.psnr_y_pooled == math.inf
    assert report.ssim_y == 1.0
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["psnr_y"] == plain["psnr_y_pooled"] == "inf"


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gray", 8), ("yuv420p", 8), ("yuv420p10le", 10), ("gray16le", 16)])
@pytest.mark.usefixtures("without_vmaf")
def test_ssim_against_windows(write: Write, pix_fmt: str, bits: int) -> None:
    scale = 1 << (bits - 8)
    x = texture(3) * scale
    y = np.clip(x + texture(4, low=-20, high=21) * scale, 0, 255 * scale)
    report = compare_files(write([x], pix_fmt=pix_fmt), write([y], pix_fmt=pix_fmt))
    assert report.bits == bits
    assert report.ssim_y == pytest.approx(reference_ssim(x, y, 2**bits - 1), abs=1e-9)
    assert 0.5 < report.ssim_y < 0.99


def test_ssim_sees_structure_not_brightness() -> None:
    x = texture(5).astype(np.float64)
    brighter, noisy = SsimMeter(255), SsimMeter(255)
    brighter.add(x, x + 10)
    noisy.add(x, x + 10 * np.sign(texture(6, low=-100, high=100) + 0.5))
    assert brighter.mean > noisy.mean
    psnrs = [PsnrMeter(255), PsnrMeter(255)]
    psnrs[0].add(x, x + 10)
    psnrs[1].add(x, x - 10)
    assert psnrs[0].mean == pytest.approx(psnrs[1].mean)


@pytest.mark.parametrize("code_range", [LIMITED, FULL])
@pytest.mark.usefixtures("without_vmaf")
def test_other_depth_is_scaled_to_the_reference(write: Write, code_range: int) -> None:
    eight, ten = texture(7, low=0, high=256), texture(7, low=0, high=256)
    ten = ten * 4 if code_range == LIMITED else np.rint(ten * (1023 / 255))
    shallow = write([eight], pix_fmt="yuv420p", code_range=code_range)
    deep = write([ten], pix_fmt="yuv420p10le", code_range=code_range)
    for reference, distorted, bits in ((shallow, deep, 8), (deep, shallow, 10)):
        report = compare_files(reference, distorted)
        assert report.bits == bits
        assert report.psnr_y >= (math.inf if code_range == LIMITED else 65)
        assert report.ssim_y == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("without_vmaf")
def test_depth_is_not_rounded(write: Write) -> None:
    """One 10-bit step against an 8-bit reference is an error of a quarter of a code."""
    report = compare_files(write([flat(100)], pix_fmt="yuv420p"), write([flat(401)], pix_fmt="yuv420p10le"))
    assert report.psnr_y == pytest.approx(10 * math.log10(255**2 / 0.25**2))


def test_sizes_must_agree(write: Write) -> None:
    with pytest.raises(UsageError, match=r"32x24 with 16x24: give an original and a result of one size"):
        compare_files(write([flat(9)]), write([flat(9, width=16)]))


def test_ranges_must_agree(write: Write) -> None:
    limited = write([flat(100)], pix_fmt="yuv420p")
    full = write([flat(100)], pix_fmt="yuv420p", code_range=FULL)
    with pytest.raises(UsageError, match=r"limited with full range.*out_range=limited"):
        compare_files(limited, full)


def test_pictures_must_hold_a_window(write: Write) -> None:
    name = write([flat(9, height=10)])
    with pytest.raises(UsageError, match="11x11"):
        compare_files(name, name)


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
@pytest.mark.usefixtures("without_vmaf")
def test_differing_counts_are_said(write: Write, caplog: pytest.LogCaptureFixture, lengths: tuple[int, int]) -> None:
    first, second = (write([flat(100 + index) for index in range(length)]) for length in lengths)
    with caplog.at_level(logging.WARNING, "streamer"):
        report = compare_files(first, second)
    assert report.frames == 3
    assert report.identical_frames == 3
    assert report.notes == tuple(caplog.messages)
    assert f"{lengths[0]} and {lengths[1]} frames" in report.notes[0]


@pytest.mark.usefixtures("without_vmaf")
def test_differing_times_are_said(write: Write) -> None:
    lumas = [flat(100)] * 4
    first = write(lumas)
    assert compare_files(first, write(lumas, times=[500, 540, 580, 620])).notes == ()
    (note,) = compare_files(first, write(lumas, times=[0, 40, 120, 160])).notes
    assert "differ from frame 2 on" in note


@pytest.mark.usefixtures("without_vmaf")
def test_vmaf_missing_is_said(write: Write) -> None:
    name = write([flat(100)])
    report = compare_files(name, name)
    assert report.vmaf is None
    assert report.vmaf_neg is None
    assert "streamer-enhancer[vmaf]" in str(report.vmaf_missing)
    assert "not measured: it needs the vmaf extra" in str(report)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_VMAF, reason="needs the vmaf extra")
def test_vmaf_orders_videos(write: Write) -> None:
    clip = [_soft(seed) for seed in range(6)]
    good = write(clip, pix_fmt="yuv420p")
    shifted = write(clip, pix_fmt="yuv420p", times=[3, 90, 91, 300, 301, 999])
    bad = write([cv2.blur(luma.astype(np.uint8), (9, 9)) for luma in clip], pix_fmt="yuv420p")
    same, later, worse = (compare_files(good, other) for other in (good, shifted, bad))
    assert (same.vmaf or 0) >= 95
    assert (same.vmaf_neg or 0) >= 95
    assert later.vmaf == same.vmaf, "frames are paired by number, whatever their times"
    assert (worse.vmaf or 100) < (same.vmaf or 0) - 10
    assert same.vmaf_missing is None
    assert "(v0.6.1neg)" in str(same)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_VMAF, reason="needs the vmaf extra")
def test_vmaf_takes_the_frames_that_were_compared(write: Write) -> None:
    short = write([_soft(seed) for seed in range(3)], pix_fmt="yuv420p")
    long = write([*(_soft(seed) for seed in range(3)), flat(16, height=144, width=192)], pix_fmt="yuv420p")
    assert compare_files(short, long).vmaf == compare_files(short, short).vmaf


@pytest.mark.slow
@pytest.mark.skipif(not HAS_VMAF, reason="needs the vmaf extra")
def test_vmaf_says_what_ffmpeg_said(write: Write, tmp_path: Path) -> None:
    with pytest.raises(VmafError, match="No such file"):
        measure_vmaf(str(tmp_path / "none.mkv"), write([flat(1)]), frames=1, pix_fmt="gray")


def test_report_is_a_table() -> None:
    report = Report("a", "b", "32x24", 8, 3, 1, 40.0, 39.5, 0.98, 93.0, 92.0, None, 0.5, 2e-4, 1e-4, ())
    lines = str(report).splitlines()
    assert lines[1] == "PSNR-Y    40.000 dB (mean of frames)"
    assert lines[4:6] == ["VMAF      93.00 (v0.6.1)", "VMAF NEG  92.00 (v0.6.1neg)"]
    assert lines[6].startswith("flicker   0.500 codes")
    assert "0.200e-3 (warping error; the reference's own: 0.100e-3)" in lines[7]


def test_flicker_is_measured_on_request(write: Write) -> None:
    still = texture(1)
    reference, jumping = write([still] * 3), write([still, still + 4, still])
    assert compare_files(reference, jumping).difference_error is None
    assert compare_files(reference, jumping, temporal=True).difference_error == pytest.approx(4)


def _soft(seed: int) -> Plane:
    """A picture with detail at several scales [144, 192]."""
    coarse = texture(seed, height=18, width=24, low=40, high=200)
    return np.clip(
        np.kron(coarse, np.ones((8, 8), np.int64)) + texture(7, height=144, width=192, low=-8, high=9), 0, 255
    )
