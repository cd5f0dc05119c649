"""What is done to training sequences, and what is recorded of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from onnx_models import degrade
from onnx_models.codecs import Coding
from onnx_models.kernels import reduction_taps
from tests.photos import picture

if TYPE_CHECKING:
    from onnx_models.scenes import Planes

PLAIN = degrade.Degradation(2, "bicubic", 0.0, 0, 0.0, 0.0, False, 0.0, 0.0, None, ())


def sequence(frames: int = 4) -> list[Planes]:
    luma = cv2.cvtColor(picture(5, 96, 128), cv2.COLOR_BGR2GRAY)
    grey = np.full((48, 64), 128, np.uint8)
    return [(np.roll(luma, 2 * t, axis=1), grey, grey) for t in range(frames)]


def test_degradations_are_seeded_and_recorded() -> None:
    mix = degrade.DegradeMix(noise_share=1.0, uncompressed_share=0.0)
    results = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        how = degrade.draw(mix, 2, rng)
        results.append((how, degrade.degrade(sequence(), how, rng)))
    assert results[0][0] == results[1][0]
    assert results[0][0].noise_sigma > 0
    np.testing.assert_array_equal(results[0][1].lumas, results[1][1].lumas)
    np.testing.assert_array_equal(results[0][1].targets, results[1][1].targets)
    assert results[0][1].level == results[1][1].level > 0
    assert results[0][1].noise == results[1][1].noise
    assert results[0][1].lumas[0].shape == (48, 64)


def test_what_an_earlier_compression_left_is_the_target() -> None:
    worn = dataclasses.replace(PLAIN, scale=1, worn=Coding("h264", 40))
    rng = np.random.default_rng(1)
    result, untouched = (degrade.degrade(sequence(), how, rng) for how in (worn, dataclasses.replace(worn, worn=None)))
    np.testing.assert_array_equal(result.lumas, result.targets)
    assert np.std(np.subtract(result.targets, untouched.targets, dtype=float)) > 2
    assert result.level == untouched.level == 0


def test_a_brighter_exposure_brightens_input_and_target() -> None:
    how = dataclasses.replace(PLAIN, exposure=0.5)
    received = degrade.degrade(sequence(4), how, np.random.default_rng(0))
    for lumas in (received.lumas, received.targets):
        means = [luma.mean() for luma in lumas]
        assert means == sorted(means)
        assert means[-1] > means[0] + 10


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, 0.7])
def test_motion_blurs_along_its_direction(angle: float) -> None:
    dot = np.zeros((32, 32), np.uint8)
    dot[16, 16] = 255
    grey = np.full((16, 16), 128, np.uint8)
    how = dataclasses.replace(PLAIN, scale=1, motion_blur_px=6, motion_angle=angle)
    seen = degrade.degrade([(dot, grey, grey)], how, np.random.default_rng(0)).lumas[0].astype(float)
    rows, cols = np.indices(seen.shape) - 16
    along = cols * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - cols * np.sin(angle)
    assert abs((seen * along).sum() / seen.sum()) < 0.3
    assert (seen * along**2).sum() > 5 * (seen * across**2).sum()


def test_sharpening_overshoots() -> None:
    luma = np.full((64, 64), 100, np.uint8)
    luma[:, 32:] = 150
    grey = np.full((32, 32), 128, np.uint8)
    received = degrade.degrade([(luma, grey, grey)], dataclasses.replace(PLAIN, sharpen=1.0), np.random.default_rng(0))
    assert received.lumas[0].min() < 95
    assert received.lumas[0].max() > 155
    assert received.level == 0


def test_compression_raises_the_level_and_leaves_less_of_the_noise() -> None:
    def levels(noise: float, *codings: Coding) -> tuple[float, float]:
        how = dataclasses.replace(PLAIN, noise_sigma=noise, codings=codings)
        received = degrade.degrade(sequence(), how, np.random.default_rng(0))
        return received.level, received.noise

    once, heavy = Coding("jpeg", 60), Coding("h264", 35)
    assert levels(0) == (0, 0)
    assert levels(0, once)[0] < levels(0, once, once)[0] < levels(0, once, heavy)[0]
    assert levels(0, heavy)[1] == 0
    assert levels(4)[0] == 0
    assert levels(2)[1] < levels(4)[1]
    assert levels(4, heavy)[1] < levels(4, once)[1] <= levels(4)[1]


@pytest.mark.parametrize("kind", degrade.KERNELS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reductions_keep_mean_and_position(kind: str, scale: int) -> None:
    taps, anchor = reduction_taps(degrade.KERNELS[kind], scale)
    assert taps.sum() == pytest.approx(1, abs=1e-6)
    offsets = np.arange(len(taps)) - anchor
    assert (offsets * taps).sum() == pytest.approx((scale - 1) / 2, abs=1e-6)
    ramp = np.tile(np.arange(24 * scale, dtype=np.float32), (24 * scale, 1))
    reduced = degrade.reduce_luma(ramp, scale, kind)
    expected = np.arange(24) * scale + (scale - 1) / 2
    np.testing.assert_allclose(reduced[8, 8:16], expected[8:16], atol=1e-2)
