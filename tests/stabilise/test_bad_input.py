"""What real streams do to a stabiliser: it must not crash, keep a ghost, or drift."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.gate import Gate
from streamer.stabiliser import StabiliseStage
from tests.stabilise.scenes import codes, frames_of, noisy, stabilised, stage_outputs, textured

if TYPE_CHECKING:
    from tests.stabilise.scenes import Luma

HEIGHT, WIDTH = 64, 96
MODES = ("adaptive", "flow")


def squared(luma: Luma, truth: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(np.mean(np.square(luma.astype(np.float32) - truth)))


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_still_noisy_scene_converges_and_stays(count: int) -> None:
    light = textured(48, 64)
    pool = noisy(light, 257, 5.0)
    stage = StabiliseStage()
    first = frames_of(pool[:1])[0]
    stage.open(first.format)
    errors, bias = [], []
    for t in range(count):
        frame = replace(first, planes=(pool[(t * 97) % 257],), pts=t, index=t)
        done = next(iter(stage.process(frame))).planes[0]
        errors.append(squared(done, light))
        bias.append(float(done.mean()) - float(light.mean()))
    early, late = np.mean(errors[100:200]), np.mean(errors[-100:])
    assert late == pytest.approx(early, rel=0.1)
    assert max(errors[100:]) < 2 * early
    assert early < 25 / 4
    assert np.abs(bias[100:]).max() < 0.5


@pytest.mark.parametrize("size", [(101, 16), (104, 16), (320, 20), (1280, 80), (16, 320), (8, 8)])
def test_low_and_narrow_pictures_pass(size: tuple[int, int]) -> None:
    sources = noisy(textured(size[1], size[0]), 4, 5.0)
    assert len(stage_outputs(sources, sources, "flow")) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_stream_becomes_the_frozen_frame(mode: str) -> None:
    sources = noisy(textured(HEIGHT, WIDTH), 20, 5.0)
    sources += [sources[-1]] * 60
    last = stage_outputs(sources, sources, mode)[-1]
    assert np.abs(last.astype(int) - sources[-1]).max() <= 1


def test_doubled_frames_do_not_hide_the_noise() -> None:
    gate = Gate()
    for source in noisy(textured(HEIGHT, WIDTH), 20, 5.0):
        gate.update(gate.look(source))
        gate.update(gate.look(source), repeated=True)
    assert gate.noise == pytest.approx(5.0, rel=0.25)


def test_dropped_frames_make_history_count_less() -> None:
    gains = []
    for elapsed in (1, 10):
        gate = Gate()
        for source in noisy(textured(HEIGHT, WIDTH), 12, 5.0):
            verdict = gate.update(gate.look(source), elapsed=elapsed)
        gains.append(float(np.median(verdict.gain)))
    assert gains[0] < gains[1] < 0.6


@pytest.mark.parametrize("mode", MODES)
def test_alternating_exposure_leaves_no_ghost(mode: str) -> None:
    light = textured(HEIGHT, WIDTH)
    sources = [codes(light * (1.15 if t % 2 else 1.0)) for t in range(20)]
    for source, output in zip(sources, stage_outputs(sources, sources, mode), strict=True):
        assert np.abs(source.astype(int) - output).mean() < 0.5


@pytest.mark.parametrize("mode", MODES)
def test_interlaced_leftovers_pass(mode: str) -> None:
    whole = textured(HEIGHT, 2 * WIDTH)
    sources = []
    for t in range(16):
        woven = codes(whole[:, 4 * t : 4 * t + WIDTH])
        woven[1::2] = codes(whole[1::2, 4 * t + 2 : 4 * t + 2 + WIDTH])
        sources.append(woven)
    for source, output in zip(sources, stage_outputs(sources, sources, mode), strict=True):
        assert np.abs(source.astype(int) - output).mean() < 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("levels", [(0, 0), (255, 255), (0, 255), (16, 235), (128, 129)])
def test_constant_colour_passes(levels: tuple[int, int], mode: str) -> None:
    sources = [np.full((HEIGHT, WIDTH), levels[t // 4 % 2], np.uint8) for t in range(16)]
    for source, output in zip(sources, stage_outputs(sources, sources, mode), strict=True):
        assert np.abs(source.astype(int) - output).max() <= 1


def test_one_spoilt_frame_is_soon_gone() -> None:
    light = textured(HEIGHT, WIDTH)
    sources = noisy(light, 40, 5.0)
    enhanced = list(sources)
    enhanced[10] = np.zeros_like(enhanced[10])  # what becomes of a network's NaN
    outputs = stage_outputs(sources, enhanced)
    limit = 2.5 * 5 * 1.2
    assert outputs[10].max() <= limit, "history pulls up to its limit only"
    assert np.abs(outputs[11].astype(float) - sources[11]).max() <= limit
    assert squared(outputs[-1], light) < 25 / 3


def test_flashes_end_and_what_was_before_comes_back() -> None:
    light = textured(HEIGHT, WIDTH)
    sources = noisy(light, 40, 5.0)
    for t in (15, 16, 25):
        sources[t] = codes(60 + sources[t] * 1.4)
    frames = stabilised(frames_of(sources))
    for t in (17, 26):
        assert np.abs(frames[t].planes[0].astype(float) - sources[t]).mean() < 6
    assert squared(frames[-1].planes[0], light) < 25 / 3
