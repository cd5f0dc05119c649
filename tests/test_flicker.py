"""Measures of flicker: against hand-computed values, and that each sees what the other doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from streamer.flicker import FlickerMeter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Plane = npt.NDArray[Any]

HEIGHT, WIDTH, PEAK = 96, 128, 255.0


def texture(seed: int = 1) -> Plane:
    """Blobs that optical flow can follow."""
    noise = np.random.default_rng(seed).uniform(0, 255, (HEIGHT, 2 * WIDTH))
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), 3.0), np.float64)
    scaled: Plane = 40 + 160 * (smooth - smooth.min()) / np.ptp(smooth)
    return scaled


def pan(count: int, px: int) -> list[Plane]:
    whole = texture()
    return [whole[:, t * px : t * px + WIDTH].copy() for t in range(count)]


def measured(reference: Sequence[Plane], distorted: Sequence[Plane], peak: float = PEAK) -> FlickerMeter:
    meter = FlickerMeter(peak)
    for pair in zip(reference, distorted, strict=True):
        meter.add(*(np.asarray(plane, np.float64) for plane in pair))
    return meter


def test_a_still_video_whose_brightness_jumps_by_hand() -> None:
    still = texture()[:, :WIDTH]
    meter = measured([still] * 3, [still, still + 5.1, still])
    assert meter.difference_error == pytest.approx(5.1)
    assert meter.warping_error == pytest.approx((5.1 / 255) ** 2)
    assert meter.reference_warping_error == 0


def test_an_error_that_stays_is_no_flicker() -> None:
    still = texture()[:, :WIDTH]
    meter = measured([still] * 3, [still + 20] * 3)
    assert meter.difference_error == pytest.approx(0)
    assert meter.warping_error == pytest.approx(0)


def test_motion_is_followed() -> None:
    moving = pan(4, px=3)
    meter = measured(moving, moving)
    assert meter.difference_error == 0
    assert meter.warping_error == meter.reference_warping_error
    assert meter.warping_error is not None
    frozen = np.mean([np.square((a - b) / 255).mean() for a, b in zip(moving[1:], moving, strict=False)])
    assert meter.warping_error < frozen / 50


def test_flicker_is_seen_on_moving_pictures_and_lag_by_the_difference_error_only() -> None:
    moving = pan(6, px=3)
    flickering = [luma + (4 if t % 2 else -4) for t, luma in enumerate(moving)]
    meter = measured(moving, flickering)
    assert meter.difference_error == pytest.approx(8)
    assert meter.warping_error == pytest.approx((8 / 255) ** 2, rel=0.1)
    late = [moving[0], *moving[:-1]]
    assert (measured(moving, late).difference_error or 0) > 1


def test_cuts_are_left_out_of_the_warping_error() -> None:
    cut = [texture(1)[:, :WIDTH], 255 - texture(7)[::-1, WIDTH:]]
    noise = np.random.default_rng(3).uniform(0, 255, (HEIGHT, WIDTH))
    meter = measured([cut[0], noise], [cut[0], noise])
    assert meter.warping_error is None
    assert meter.difference_error == 0


def test_deeper_pictures_give_the_same_figures() -> None:
    moving = pan(3, px=2)
    flickering = [luma + 2 * (t % 2) for t, luma in enumerate(moving)]
    deep = measured([luma * 1023 / 255 for luma in moving], [luma * 1023 / 255 for luma in flickering], 1023.0)
    plain = measured(moving, flickering)
    assert deep.difference_error == pytest.approx(plain.difference_error)
    assert deep.warping_error == pytest.approx(plain.warping_error)


def test_one_frame_has_no_flicker() -> None:
    meter = measured([texture()[:, :WIDTH]], [texture()[:, :WIDTH]])
    assert meter.difference_error is None
    assert meter.warping_error is None
    assert meter.reference_warping_error is None


def test_pictures_too_small_to_follow_motion_have_a_difference_error_only() -> None:
    small = [luma[:11, :11] for luma in pan(3, px=1)]
    meter = measured(small, small)
    assert meter.difference_error == 0
    assert meter.warping_error is None
