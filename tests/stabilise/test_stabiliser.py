"""The stabilise stage: what it cleans, what it leaves alone, and what it forgets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.sequences import CAMERAS, Damage, received, seen_by
from streamer.errors import EnhanceError, UsageError
from streamer.frame import Frame, VideoFormat
from streamer.gate import Gate
from streamer.stabiliser import CUTS, StabiliseStage
from tests.stabilise.scenes import (
    codes,
    frames_of,
    noisy,
    photographed,
    popping,
    sourced,
    stabilised,
    stage_outputs,
    textured,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.sequences import Camera
    from tests.stabilise.scenes import Luma

HEIGHT, WIDTH = 96, 160


def error(luma: Luma, truth: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Mean squared, in codes."""
    return float(np.mean(np.square(luma.astype(np.float32) - truth)))


def psnr_y(frames: Sequence[Luma], truth: Sequence[Luma]) -> float:
    """Of the mean squared error of all frames, in dB."""
    mean = np.mean([error(frame, clean.astype(np.float32)) for frame, clean in zip(frames, truth, strict=True)])
    return float(10 * np.log10(255**2 / mean))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("noise", [2.0, 5.0, 10.0])
def test_a_still_scene_is_cleaned_as_far_as_averaging_can(noise: float, scale: int) -> None:
    light = textured(HEIGHT, WIDTH)
    sources = noisy(light, 40, noise)
    enhanced = [np.ascontiguousarray(source.repeat(scale, 0).repeat(scale, 1)) for source in sources]
    outputs = stage_outputs(sources, enhanced)
    truth = light.repeat(scale, 0).repeat(scale, 1)
    before, after = (np.mean([error(frame, truth) for frame in frames[20:]]) for frames in (enhanced, outputs))
    assert 10 * np.log10(before / after) > 7
    assert abs(np.mean(outputs[-1]) - np.mean(truth)) < 0.1


@pytest.mark.parametrize("sigma", [2.0, 6.0])
def test_the_noise_is_measured(sigma: float) -> None:
    gate = Gate()
    for source in noisy(textured(HEIGHT, WIDTH), 30, sigma):
        gate.update(gate.look(source))
    assert gate.noise == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("mode", ["adaptive", pytest.param("flow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
@pytest.mark.parametrize(
    "damage",
    [
        Damage(noise=5),
        pytest.param(Damage(noise=10), marks=pytest.mark.slow),
        pytest.param(Damage(crf=28), marks=pytest.mark.slow),
        Damage(crf=33, keyint=30),
    ],
    ids=lambda damage: damage.name,
)
def test_never_worse_than_frame_by_frame(camera: Camera, damage: Damage, mode: str) -> None:
    scene = seen_by(codes(photographed(160, 240)), camera, 36)
    sources, _ = received(scene.frames, 1, damage)
    outputs = stage_outputs(sources, sources, mode)
    assert psnr_y(outputs, scene.frames) >= psnr_y(sources, scene.frames) - 0.03


def test_a_clean_moving_picture_stays_as_it_is() -> None:
    whole = textured(HEIGHT, 2 * WIDTH)
    sources = [codes(whole[:, 2 * t : 2 * t + WIDTH]) for t in range(20)]
    for source, output in zip(sources, stage_outputs(sources, sources), strict=True):
        assert np.abs(source.astype(int) - output).mean() < 0.02


def test_what_moves_leaves_no_ghost() -> None:
    light = textured(HEIGHT, WIDTH)
    sources = noisy(light, 24, 4.0)
    for t, source in enumerate(sources):
        source[30:54, 6 * t : 6 * t + 24] = 230
    last = stage_outputs(sources, sources)[-1].astype(np.float32)
    left = 6 * 23
    assert last[34:50, left + 4 : left + 18].min() > 220
    behind = np.abs(last[30:54, left - 24 : left - 10] - light[30:54, left - 24 : left - 10])
    assert behind.mean() < 4.5  # the noise of one frame has 3.2, and the square was 100 lighter


def test_a_pop_comes_in_slowly_and_wholly() -> None:
    sources = popping(textured(HEIGHT, WIDTH), frames=60, pop_at=10)
    outputs = stage_outputs(sources, sources)
    jump = np.abs(sources[10].astype(int) - sources[9]).mean()
    steps = [np.abs(new.astype(int) - old).mean() for old, new in itertools.pairwise(outputs)]
    assert max(steps) < jump / 2
    assert np.abs(outputs[-1].astype(int) - sources[-1]).max() <= 1


def test_flow_follows_a_moving_camera() -> None:
    camera = next(camera for camera in CAMERAS if camera.name == "hand-held")
    scene = seen_by(codes(textured(192, 320)), camera, 36)
    sources, _ = received(scene.frames, 1, Damage(noise=8))
    still, follows = (psnr_y(stage_outputs(sources, sources, mode), scene.frames) for mode in ("adaptive", "flow"))
    assert follows > still + 0.5


def test_no_frame_shows_two_scenes() -> None:
    scenes = [noisy(textured(HEIGHT, WIDTH, seed), 12, 5.0) for seed in (1, 2, 9)]
    sources = [source for scene in scenes for source in scene]
    stage = StabiliseStage()
    stage.open(frames_of(sources)[0].format)
    outputs = [done for frame in frames_of(sources) for done in stage.process(frame)]
    for cut in (0, 12, 24):
        np.testing.assert_array_equal(outputs[cut].planes[0], sources[cut])
    assert (outputs[11].planes[0] != sources[11]).any()
    assert stage.counts == {CUTS: 2}


def test_discontinuities_and_reset_end_the_history() -> None:
    sources = noisy(textured(HEIGHT, WIDTH), 12, 5.0)
    frames = frames_of(sources)
    frames[8] = replace(frames[8], discontinuity=True)
    np.testing.assert_array_equal(stabilised(frames)[8].planes[0], sources[8])
    stage = StabiliseStage()
    stage.open(frames[0].format)
    list(stage.process(frames[0]))
    stage.reset()
    np.testing.assert_array_equal(next(iter(stage.process(frames[1]))).planes[0], sources[1])


def test_another_size_format_or_source_begins_anew() -> None:
    def planes(height: int, width: int) -> Frame:
        luma = noisy(textured(height, width), 1, 5.0)[0]
        return replace(frames_of([luma])[0])

    stage = StabiliseStage(keeps_source=True)
    first = planes(48, 64)
    stage.open(first.format)
    deep = Frame((first.planes[0].astype(np.uint16) * 4,), VideoFormat(64, 48, "gray10"), 1, Fraction(1, 25), 1, 1, 0)
    small = sourced(first, np.ascontiguousarray(first.planes[0][::2, ::2]))
    for frame in (first, planes(96, 64), first, deep, first, small):
        done = next(iter(stage.process(frame)))
        np.testing.assert_array_equal(done.planes[0], frame.planes[0])
        assert done.source is frame.source
        assert done.format == frame.format


def test_a_source_of_another_shape_is_refused() -> None:
    frame = sourced(frames_of([codes(textured(48, 64))])[0], np.zeros((20, 30), np.uint8))
    with pytest.raises(EnhanceError, match="64x48 by a source of 30x20"):
        stabilised([frame])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10", "yuv444p12", "gray16", "yuv440p"])
@pytest.mark.parametrize("size", [(64, 48), (37, 23), (1, 1), (9, 130)])
@pytest.mark.parametrize("scale", [1, 3])
def test_every_format_and_size(pix_fmt: str, size: tuple[int, int], scale: int) -> None:
    width, height = size
    format = VideoFormat(width * scale, height * scale, pix_fmt)
    layout = format.layout
    rng = np.random.default_rng(2)
    shapes = layout.shapes(format.width, format.height)
    middle = 1 << (layout.bits - 1)
    frames = []
    for t in range(6):
        made = tuple(rng.normal(middle, middle / 40, shape).astype(layout.dtype) for shape in shapes)
        source = np.ascontiguousarray(made[0][::scale, ::scale])
        frames.append(sourced(Frame(made, format, t, Fraction(1, 25), 1, t, 0), source))
    for mode in ("adaptive", "flow"):
        outputs = stabilised(frames, mode)
        assert [output.pts for output in outputs] == list(range(6))
        for before, after in zip(frames, outputs, strict=True):
            for plane, done in zip(before.planes, after.planes, strict=True):
                assert (done.dtype, done.shape) == (plane.dtype, plane.shape)
                assert np.abs(done.astype(int) - plane).max() < middle / 2
                assert not done.flags.writeable
    if min(size) > 40:
        kept = [np.std(outputs[-1].planes[number].astype(float)) for number in range(layout.planes)]
        assert max(kept) < middle / 60, "chroma is cleaned with luma"


def test_strength_scales_from_nothing_to_all() -> None:
    light = textured(HEIGHT, WIDTH)
    sources = noisy(light, 16, 5.0)
    errors = []
    for strength in (0.0, 0.5, 1.0):
        outputs = [frame.planes[0] for frame in stabilised(frames_of(sources), strength=strength)]
        errors.append(error(outputs[-1], light))
        if not strength:
            np.testing.assert_array_equal(outputs[-1], sources[-1])
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_bad_strengths_are_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="out of range"):
        StabiliseStage(strength=strength)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(UsageError, match="off, adaptive, flow"):
        StabiliseStage("fixed")


def test_the_mode_may_change_while_it_runs() -> None:
    frames = frames_of(noisy(textured(HEIGHT, WIDTH), 8, 5.0))
    stage = StabiliseStage("adaptive")
    stage.open(frames[0].format)
    for frame in frames[:4]:
        list(stage.process(frame))
    stage.mode = "flow"
    changed = [out.planes[0] for frame in frames[4:] for out in stage.process(frame)]
    fresh = stage_outputs([frame.planes[0] for frame in frames[4:]], [frame.planes[0] for frame in frames[4:]], "flow")
    for out, wanted in zip(changed, fresh, strict=True):
        np.testing.assert_array_equal(out, wanted)


def test_frames_that_are_stabilised_already_pass_and_end_the_history() -> None:
    frames = frames_of(noisy(textured(HEIGHT, WIDTH), 6, 5.0))
    frames[3] = replace(frames[3], stabilised=True)
    stage = StabiliseStage()
    stage.open(frames[0].format)
    results = [result for frame in frames for result in stage.process(frame)]
    changed = [(out.planes[0] != frame.planes[0]).any() for out, frame in zip(results, frames, strict=True)]
    assert changed == [False, True, True, False, False, True]
    assert results[3].planes is frames[3].planes


def test_memory_stays_and_is_what_is_stated() -> None:
    frames = frames_of(noisy(textured(HEIGHT, WIDTH), 3, 5.0))
    stage = StabiliseStage()
    stage.open(frames[0].format)
    assert stage.nbytes == 0
    sizes = []
    for frame in frames:
        list(stage.process(frame))
        sizes.append(stage.nbytes)
    planes, reference, cells = HEIGHT * WIDTH * 2, HEIGHT * WIDTH, HEIGHT * WIDTH // 64
    assert sizes == [planes + reference + 2 * 4 * cells] * 3
