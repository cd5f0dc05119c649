"""Compression and noise of a stream: what decoders tell, what pictures show, how the enhance stage uses it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import streamer.image
import streamer.job
import streamer.level
from onnx_models.cards import ModelCard, load_card
from onnx_models.codecs import Coding, transcode
from onnx_models.level import level_of_noise, level_of_qp, level_of_stream, qp_of_step
from onnx_models.scenes import Planes
from streamer.enhancer import EnhanceStage
from streamer.errors import UsageError
from streamer.frame import Frame
from streamer.image import ImageEnhancer
from streamer.level import (
    HELD,
    MEASURED_EVERY,
    NOISE_DEAD_ZONE,
    PER_SECOND,
    QP_RANGE,
    Estimate,
    LevelMeter,
    Levels,
    estimate,
    noise_of_qp,
)
from streamer.sources.media import MediaSource
from tests.clips import Clip, make_frame
from tests.pixel_models import BRIGHTER, tiny_model

Luma = npt.NDArray[np.uint8]
SAME_IN_ALL_FRAMES = {"x264-params": "ipratio=1:pbratio=1"}


def frames_of(path: Path) -> list[Frame]:
    source = MediaSource(str(path))
    source.open()
    frames = list(iter(source.read, None))
    source.close()
    return frames


# --- what decoders tell


@pytest.mark.parametrize(
    ("qp", "pix_fmt", "expected"), [(20, "yuv420p", 20), (35, "yuv420p", 35), (40, "yuv420p10le", 28)]
)
def test_h264_tells_its_parameter_on_the_8_bit_scale(tmp_path: Path, qp: int, pix_fmt: str, expected: float) -> None:
    options = {"qp": str(qp), **SAME_IN_ALL_FRAMES}
    frames = frames_of(Clip(pix_fmt=pix_fmt, options=options).write(tmp_path / "in.mp4"))
    assert [frame.qp for frame in frames] == [expected] * 10


def test_frames_of_other_types_are_quantised_otherwise(tmp_path: Path) -> None:
    known = [frame.qp for frame in frames_of(Clip(options={"qp": "30"}).write(tmp_path / "in.mp4"))]
    assert known[0] == 27
    assert set(known[1:]) <= {30, 31, 32}


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video"])
def test_mpeg_tells_its_step(tmp_path: Path, codec: str) -> None:
    clip = Clip(codec=codec, options={"qmin": "5", "qmax": "5"}).write(tmp_path / "in.mkv")
    frames = frames_of(clip)
    assert {frame.qp for frame in frames[:-1]} == {qp_of_step(10)}
    assert frames[-1].qp in (None, qp_of_step(10))  # not told by all versions when the decoder is drained


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [("ffv1", "yuv420p", "in.mkv"), ("rawvideo", "yuv420p", "in.avi"), ("libvpx-vp9", "yuv420p", "in.webm"),
     ("mjpeg", "yuvj420p", "in.avi"), ("png", "rgb24", "in.png")],
)  # fmt: skip
def test_others_tell_nothing(tmp_path: Path, codec: str, pix_fmt: str, name: str) -> None:
    clip = Clip(codec=codec, pix_fmt=pix_fmt, frames=1 if name.endswith("png") else 5, options={})
    assert {frame.qp for frame in frames_of(clip.write(tmp_path / name))} == {None}


def test_deinterlacing_keeps_it(tmp_path: Path) -> None:
    clip = Clip(interlaced=True, options={"qp": "30", "bf": "0"}).write(tmp_path / "in.mp4")
    frames = frames_of(clip)
    assert frames[0].qp == 27
    assert {frame.qp for frame in frames[1:]} == {30}


# --- the meter


def frame_with(qp: float | None, duration: int = 1, **changes: Any) -> Frame:
    return replace(make_frame(), qp=qp, duration=duration, **changes)


def level_after(meter: LevelMeter, qp: float | None, duration: int = 1) -> float:
    return meter.update(frame_with(qp, duration)).level


class Watch:
    """Stands for `estimate`: gives the estimates in turn, the last one for ever, and keeps what it was told."""

    def __init__(self, *estimates: Estimate) -> None:
        self._estimates = list(estimates)
        self.told: list[float | None] = []

    def __call__(self, luma: Luma, bits: int, told: float | None) -> Estimate:
        self.told.append(told)
        return self._estimates.pop(0) if len(self._estimates) > 1 else self._estimates[0]


def test_the_first_frame_counts_as_it_is() -> None:
    assert level_after(LevelMeter(), 26) == level_of_stream(26) == level_of_qp(26) ** 2 > 0
    assert LevelMeter().update(frame_with(None)) == Levels(0, 0)  # too small to see anything


def test_a_change_takes_about_a_second_at_any_frame_rate() -> None:
    for duration in (1, 5):  # of 1/25 s
        meter = LevelMeter()
        for _ in range(250 // duration):
            meter.update(frame_with(20, duration))
        for _ in range(25 // duration):
            level = level_after(meter, 40, duration)
        assert level == pytest.approx(level_of_stream(40 - 20 / np.e), abs=HELD)


def test_types_of_frames_are_averaged() -> None:
    meter = LevelMeter()
    pattern = [22, 32, 29, 32] * 25
    levels = [level_after(meter, qp) for qp in pattern]
    assert len(set(levels[25:])) == 1  # every change of it would be seen in all pixels
    assert levels[-1] == pytest.approx(level_of_stream(float(np.mean(pattern))), abs=HELD)


def test_levels_are_held_until_they_are_far_off() -> None:
    meter = LevelMeter()
    near, far = 26.0, 32.0
    assert level_of_stream(near) - level_of_stream(24) < HELD < level_of_stream(far) - level_of_stream(24)
    held = [level_after(meter, qp) for qp in [24.0] * 50 + [near] * 500]
    assert set(held) == {level_of_stream(24)}
    levels = [level_after(meter, far) for _ in range(500)]
    assert max(np.diff(levels)) <= PER_SECOND / 25 + 1e-9
    assert levels[-1] == pytest.approx(level_of_stream(far), abs=HELD)
    assert len(set(levels[75:])) == 1


def test_the_first_level_that_is_known_is_reached_at_once() -> None:
    meter = LevelMeter()
    assert level_after(meter, None) == 0
    assert level_after(meter, 40) == level_of_stream(40)


def test_reset_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.level, "estimate", Watch(Estimate(30, 40), Estimate(30, 20)))
    meter = LevelMeter()
    meter.update(frame_with(40))
    meter.reset()
    assert meter.update(frame_with(None)) == pytest.approx((level_of_qp(30), level_of_qp(20)))


def test_durations_that_are_unknown_do_no_harm() -> None:
    meter = LevelMeter()
    assert level_after(meter, 20, 0) == level_of_stream(20)
    assert level_of_stream(20) < level_after(meter, 40, -3) < level_of_stream(40)


def test_only_some_frames_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(*(Estimate(20.0 + 4 * number, 30.0 + 4 * number) for number in range(3)))
    monkeypatch.setattr(streamer.level, "estimate", watch)
    meter = LevelMeter()
    found = [meter.update(frame_with(None)) for _ in range(2 * MEASURED_EVERY + 1)]
    assert watch.told == [None] * 3
    assert len(set(found)) == 3
    assert found[0] == pytest.approx((level_of_qp(20), level_of_qp(30)))


def test_what_was_told_goes_before_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(Estimate(44, 30))
    monkeypatch.setattr(streamer.level, "estimate", watch)
    meter = LevelMeter()
    assert meter.update(frame_with(None)) == pytest.approx((1, level_of_qp(30)))
    found = [meter.update(frame_with(qp)) for qp in (20, None, 20, None, 20, None, 20, None)]
    assert found == [pytest.approx((level_of_stream(20), level_of_qp(30)))] * 8
    assert watch.told == [None, pytest.approx(20)]


def test_noise_is_averaged_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(*([Estimate(20, 42)] * 60), Estimate(20, 10))
    monkeypatch.setattr(streamer.level, "estimate", watch)
    meter = LevelMeter()
    noises = [meter.update(frame_with(20)).noise for _ in range(70 * MEASURED_EVERY)]
    assert noises[: 60 * MEASURED_EVERY] == [pytest.approx(1)] * 60 * MEASURED_EVERY
    after = noises[60 * MEASURED_EVERY :: MEASURED_EVERY]
    assert after == sorted(after, reverse=True)
    assert max(np.abs(np.diff(after))) < 0.15
    assert after[9] == pytest.approx(np.exp(-10 * MEASURED_EVERY / 25 / 3), abs=0.01)


def test_a_little_noise_is_taken_for_none() -> None:
    assert noise_of_qp(-np.inf) == noise_of_qp(10) == noise_of_qp(10 + 32 * NOISE_DEAD_ZONE) == 0
    assert noise_of_qp(10 + 32 * 1.5 * NOISE_DEAD_ZONE) == pytest.approx(NOISE_DEAD_ZONE)
    assert noise_of_qp(10 + 32 * 2 * NOISE_DEAD_ZONE) == pytest.approx(2 * NOISE_DEAD_ZONE)
    assert noise_of_qp(26) == 0.5
    assert noise_of_qp(99) == 1


# --- what pictures show


@pytest.fixture(scope="module", name="clean")
def _clean() -> list[Planes]:
    """A texture with the spectrum of photographs, shapes with sharp edges, and a camera that moves over them."""
    rng = np.random.default_rng(1)
    height, width = 416, 704
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1e-3
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.8
    texture = np.fft.irfft2(spectrum, (height, width))
    picture = (120 + 25 * texture / texture.std() + rng.normal(0, 0.5, (height, width))).astype(np.float32)
    for _ in range(30):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        mask = cv2.circle(
            np.zeros((height, width), np.float32), center, int(rng.integers(10, 60)), 1.0, -1, cv2.LINE_AA
        )
        picture += mask * float(rng.uniform(-50, 50))
    codes = np.clip(np.rint(picture), 16, 235).astype(np.uint8)
    gray = np.full((192, 320), 128, np.uint8)
    return [(np.ascontiguousarray(codes[k : k + 384, 2 * k : 2 * k + 640]), gray, gray) for k in range(8)]


def with_noise(sequence: list[Planes], sigma: float) -> list[Planes]:
    rng = np.random.default_rng(2)
    return [
        (np.clip(np.rint(luma + rng.normal(0, sigma, luma.shape)), 0, 255).astype(np.uint8), u, v)
        for luma, u, v in sequence
    ]


def frame_of(luma: Luma, qp: float | None = None) -> Frame:
    height, width = luma.shape
    frame = make_frame(width=width, height=height)
    return replace(frame, planes=(luma, *frame.planes[1:]), qp=qp)


def seen(sequence: list[Planes], qp: float | None = None) -> Levels:
    """What the meter says after some pictures of a sequence."""
    meter = LevelMeter()
    for planes in sequence[::3]:
        for _ in range(MEASURED_EVERY):
            levels = meter.update(frame_of(planes[0], qp))
    return levels


def test_clean_pictures_look_clean(clean: list[Planes]) -> None:
    assert seen(clean).level < 0.15
    assert seen(clean).noise == 0
    soft = [(np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0), np.uint8), u, v) for luma, u, v in clean]
    assert seen(soft).level < 0.25
    assert seen(soft).noise == 0


@pytest.mark.parametrize(("codec", "qualities"), [("h264", (14, 24, 32, 40)), ("jpeg", (95, 70, 40, 15))])
def test_more_compression_looks_like_more_and_not_like_noise(
    clean: list[Planes], codec: str, qualities: tuple[int, ...]
) -> None:
    decoded = [transcode(clean, Coding(codec, quality)) for quality in qualities]
    found = [seen(one.sequence) for one in decoded]
    levels = [one.level for one in found]
    assert levels == sorted(levels)
    for one, level in zip(decoded, levels, strict=True):
        assert level == pytest.approx(level_of_qp(one.qp), abs=0.3)
    assert [one.noise for one in found] == [0] * len(found)
    assert [seen(one.sequence, one.qp).noise for one in decoded] == [0] * len(found)


def test_more_noise_looks_like_more_and_not_like_compression(clean: list[Planes]) -> None:
    sigmas = (0.0, 1.5, 4.0, 10.0)
    found = [seen(with_noise(clean, sigma)) for sigma in sigmas]
    noises = [one.noise for one in found]
    assert noises == sorted(noises)
    for sigma, one in zip(sigmas, found, strict=True):
        assert one.noise == pytest.approx(level_of_noise(sigma), abs=0.2)
        assert one.level < 0.2


def test_noise_is_seen_in_what_is_hardly_compressed_and_gone_from_the_rest(clean: list[Planes]) -> None:
    noisy = with_noise(clean, 8)
    for quality, least, most in ((12, 0.4, 0.8), (40, 0.0, 0.1)):
        decoded = transcode(noisy, Coding("h264", quality))
        for told in (decoded.qp, None):
            assert least <= seen(decoded.sequence, told).noise <= most


def test_depth_and_memory_layout_make_no_difference(clean: list[Planes]) -> None:
    luma = with_noise(clean, 3)[0][0]
    padded = np.pad(luma, ((0, 0), (0, 32)))[:, :640]
    assert not padded.flags.c_contiguous
    deep = luma.astype(np.uint16) << 2
    for told in (None, 20.0):
        assert estimate(luma, 8, told) == estimate(padded, 8, told) == estimate(deep, 10, told)


def test_the_same_frames_give_the_same_levels(clean: list[Planes]) -> None:
    noisy = with_noise(clean, 3)
    assert seen(noisy) == seen(noisy)
    meter, frames = LevelMeter(), [frame_of(planes[0]) for planes in noisy]
    first = [meter.update(frame) for frame in frames]
    meter.reset()
    assert [meter.update(frame) for frame in frames] == first


@pytest.mark.parametrize("shape", [(1, 1), (24, 24), (24, 400), (40, 40), (25, 72)])
def test_pictures_too_small_are_not_judged(shape: tuple[int, int]) -> None:
    assert estimate(np.random.default_rng(0).integers(0, 255, shape, np.uint8)) is None


@pytest.mark.parametrize("bars", [((160, 160), (0, 0)), ((0, 0), (90, 134)), ((37, 11), (3, 0))])
def test_bars_are_not_judged(clean: list[Planes], bars: tuple[tuple[int, int], tuple[int, int]]) -> None:
    luma = with_noise(clean, 4)[0][0]
    barred = np.pad(luma, bars, constant_values=16)
    found, whole = estimate(barred), estimate(luma)
    assert found is not None
    assert whole is not None
    assert np.abs(np.subtract(found, whole)).max() < 4


def test_pictures_of_one_colour_are_not_judged() -> None:
    assert estimate(np.full((720, 1280), 16, np.uint8)) is None
    assert estimate(np.full((720, 1280), 64, np.uint16), 10) is None


@pytest.mark.parametrize("told", [None, -20.0, 0.0, 112.0])
def test_any_picture_gives_numbers_in_range(told: float | None) -> None:
    rng = np.random.default_rng(3)
    x = np.arange(320)
    for luma in (
        rng.integers(0, 255, (240, 320), np.uint8),
        np.broadcast_to(x % 256, (240, 320)).astype(np.uint8),
        np.where((x // 16 + np.arange(240)[:, None] // 16) % 2, 235, 16).astype(np.uint8),
        rng.integers(0, 2, (240, 320), np.uint8) * 255,
    ):
        found = estimate(luma, told=told)
        assert found is None or QP_RANGE[0] <= min(found) <= max(found) <= QP_RANGE[1]


# --- the stage


@pytest.fixture(name="toy")
def _toy(tmp_path: Path) -> ModelCard:
    """A conditioned model: the picture is brighter by the level, and darker by the noise."""
    return toy_card(tmp_path, conditioned=True)


def toy_card(folder: Path, *, conditioned: bool) -> ModelCard:
    content = tiny_model(conditioned=conditioned)
    path = folder / "toy.onnx"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    card = load_card("upscale-x2-nano")
    return replace(card, name="toy", path=path, sha256=sha256, multiple_of=1, halo_px=2, conditioned=conditioned)


def results(stage: EnhanceStage, frames: list[Frame]) -> list[float]:
    """The brightness that the stage added to each frame, as a level."""
    stage.open(frames[0].format)
    try:
        out = [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    finally:
        stage.close()
    added = []
    for frame, result in zip(frames, out, strict=True):
        larger = np.kron(frame.planes[0], np.ones((2, 2)))
        differences = result.planes[0] - larger
        assert np.ptp(differences) <= 1, "the same level everywhere"
        added.append(float(differences.mean()) / 255 / BRIGHTER)
    return added


def dark_frame(number: int, qp: float | None, **changes: Any) -> Frame:
    frame = make_frame(width=64, height=48, number=number)
    planes = (frame.planes[0] // 2, *frame.planes[1:])
    return replace(frame, planes=planes, qp=qp, **changes)


@pytest.mark.parametrize(("level", "noise"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.0)])
def test_fixed_levels_go_to_every_frame(toy: ModelCard, level: float, noise: float) -> None:
    stage = EnhanceStage(toy, strength=0, level=level, noise=noise)
    assert stage.levels is None
    assert stage.mean_levels is None
    frames = [dark_frame(number, 40) for number in range(3)]
    assert results(stage, frames) == pytest.approx([level - noise] * 3, abs=0.01)
    assert stage.levels == stage.mean_levels == Levels(level, noise)


def test_one_may_be_fixed_and_the_other_measured(toy: ModelCard) -> None:
    stage = EnhanceStage(toy, strength=0, noise=0.25)
    assert results(stage, [dark_frame(0, 26)]) == pytest.approx([level_of_stream(26) - 0.25], abs=0.01)
    assert stage.levels == Levels(level_of_stream(26), 0.25)


@pytest.mark.parametrize("max_tile_px", [1 << 20, 900])
def test_levels_follow_the_stream_and_are_one_for_all_tiles(toy: ModelCard, max_tile_px: int) -> None:
    meter = LevelMeter()
    frames = [dark_frame(number, 20 + 4 * number) for number in range(5)]
    wanted = [meter.update(frame) for frame in frames]
    stage = EnhanceStage(toy, strength=0, max_tile_px=max_tile_px)
    assert results(stage, frames) == pytest.approx([level - noise for level, noise in wanted], abs=0.01)
    assert stage.levels == wanted[-1]
    assert stage.mean_levels == pytest.approx(np.mean(wanted, axis=0))


def test_levels_begin_anew_with_a_discontinuity_and_a_reset(toy: ModelCard) -> None:
    frames = [dark_frame(0, 20), dark_frame(1, 20), dark_frame(2, 40, discontinuity=True)]
    stage = EnhanceStage(toy, strength=0, noise=0)
    assert results(stage, frames)[-1] == pytest.approx(level_of_stream(40), abs=0.01)
    assert results(stage, [dark_frame(0, 12)]) == pytest.approx([level_of_stream(12)], abs=0.01)


def test_models_without_the_inputs_get_no_levels(tmp_path: Path) -> None:
    plain = toy_card(tmp_path, conditioned=False)
    stage = EnhanceStage(plain, strength=0)
    assert results(stage, [dark_frame(0, 40)]) == [0.0]
    assert stage.levels is None
    assert stage.mean_levels is None
    with pytest.raises(UsageError, match="model toy takes no level: leave out --level"):
        EnhanceStage(plain, level=0.5)
    with pytest.raises(UsageError, match="model toy takes no noise: leave out --noise"):
        EnhanceStage(plain, noise=0.5)


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_levels_out_of_range_are_refused(toy: ModelCard, level: float) -> None:
    with pytest.raises(UsageError, match=r"level .* is out of range: 0 \(clean\) to 1"):
        EnhanceStage(toy, level=level)
    with pytest.raises(UsageError, match=r"noise .* is out of range: 0 \(clean\) to 1"):
        EnhanceStage(toy, noise=level)


def test_a_job_says_its_mean_levels(toy: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.job, "choose_model", lambda name, scale: toy)
    clip = Clip(options={"qp": "26", **SAME_IN_ALL_FRAMES}).write(tmp_path / "in.mp4")
    measured, fixed = streamer.job.enhance(clip, "null:"), streamer.job.enhance(clip, "null:", level=0.25, noise=0.75)
    assert measured.level == round(level_of_stream(26), 3)
    assert measured.noise is not None
    assert 0 <= measured.noise <= 0.5
    assert (fixed.level, fixed.noise) == (0.25, 0.75)
    monkeypatch.setattr(streamer.job, "choose_model", lambda name, scale: None)
    transcoded = streamer.job.enhance(clip, "null:")
    assert transcoded.level is transcoded.noise is None


def test_pictures_are_judged_each_by_itself(toy: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.image, "choose_model", lambda name, scale: toy)
    rng = np.random.default_rng(0)
    clean = np.full((96, 128), 120, np.uint8)
    noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    with ImageEnhancer(strength=0) as enhancer:
        darker = [float(image.mean() - enhancer.enhance(image).mean()) for image in (clean, noisy, clean)]
    assert darker[0] == darker[2] == 0
    assert darker[1] > 20
    with ImageEnhancer(strength=0, level=1) as enhancer:
        assert float(enhancer.enhance(clean).mean() - 120) == pytest.approx(255 * BRIGHTER, abs=1)
