"""The benchmark of stabilisation: its measures, on values made by hand and on a small scene."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sequences import Damage, Scene, is_static
from benchmarks.temporal import judge_scene, keyframe_pop
from tests.stabilise.scenes import codes, textured


def test_the_pop_is_the_change_at_key_frames_over_that_at_others() -> None:
    clean = [np.full((32, 32), 100, np.uint8)] * 21
    frames = [
        np.full((32, 32), 100 + t % 2 + (8 if t >= 10 else 0) + (8 if t >= 20 else 0), np.uint8) for t in range(21)
    ]
    # Between even and odd frames the change is 1; at frames 10 and 20 it is 8 - 1.
    assert keyframe_pop(frames, clean, 10) == pytest.approx(7.0)
    assert keyframe_pop(frames, clean, 250) is None
    moving = [np.full((32, 32), 3 * t, np.uint8) for t in range(21)]
    assert keyframe_pop(frames, moving, 10) is None


def test_a_small_scene_is_judged_in_every_mode() -> None:
    light = textured(96, 128)
    scene = Scene("still", [codes(light)] * 16, is_static=True)
    assert is_static(scene.frames)
    scores = {score.mode: score for score in judge_scene(scene, Damage(noise=8), "restore-x1-nano", ["adaptive"])}
    assert set(scores) == {"off", "fixed", "adaptive"}
    assert scores["adaptive"].psnr_db > scores["fixed"].psnr_db > scores["off"].psnr_db
    assert (scores["adaptive"].difference_error or 9) < (scores["off"].difference_error or 0) / 2


def test_a_scene_whose_sides_the_scale_does_not_divide_is_cropped() -> None:
    scene = Scene("still", [codes(textured(80, 112))] * 6, is_static=True)
    scores = judge_scene(scene, Damage(crf=28), "upscale-x3-nano", [])
    assert [score.mode for score in scores] == ["off", "fixed"]
