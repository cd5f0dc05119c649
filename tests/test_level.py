"""The level of a stream: what decoders tell, what pictures show, and how the enhance stage uses it."""

from __future__ import annotations

import hashlib
import itertools
import struct
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
from onnx_models.level import level_of_noise, level_of_qp, qp_of_step
from streamer.enhancer import EnhanceStage
from streamer.errors import UsageError
from streamer.frame import Frame
from streamer.image import ImageEnhancer
from streamer.level import MEASURED_EVERY, QP_RANGE, LevelMeter, blind_qp
from streamer.sources.media import MediaSource
from streamer.sources.quantiser import mean_qp
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


def told(
    *deltas: int, kind: int = 1, base: int = 30, sizes: tuple[int, ...] = (), step: int = 20, offset: int = 64
) -> bytes:
    """FFmpeg's AVVideoEncParams with 16x16 blocks, or of `sizes` x 16."""
    header = struct.pack("=I4xQQii32x", len(deltas), offset, step, kind, base)
    widths = sizes or (16,) * len(deltas)
    blocks = b"".join(
        struct.pack("=5i", 0, 0, width, 16, delta).ljust(step, b"\0")
        for delta, width in zip(deltas, widths, strict=True)
    )
    return header + blocks


def test_blocks_count_by_their_area() -> None:
    assert mean_qp(told(-2, 4)) == 31
    assert mean_qp(told(-2, 4, step=24)) == 31
    assert mean_qp(told(-2, 4, sizes=(8, 24))) == 32.5
    assert mean_qp(told()) == 30
    assert mean_qp(told(10, 10, kind=2, base=0)) == pytest.approx(qp_of_step(10))


def test_blocks_of_plain_samples_or_not_yet_written_do_not_count() -> None:
    assert mean_qp(told(0, -30, 0)) == 30
    assert mean_qp(told(-30, -30)) is None


def test_damaged_side_data_tells_nothing() -> None:
    whole = told(1, 2, 3)
    assert all(mean_qp(whole[:length]) is None for length in range(len(whole)))
    assert mean_qp(told(kind=0)) is None  # VP9
    assert mean_qp(told(kind=2, base=0)) is None
    assert mean_qp(told(10**9)) is None
    assert mean_qp(told(0, sizes=(-16,))) is None
    assert mean_qp(told(0, offset=2**60)) is None
    garbage = np.random.default_rng(0)
    for length in range(0, 400, 7):
        mean_qp(garbage.bytes(length))


# --- the meter


def frame_with(qp: float | None, duration: int = 1, **changes: Any) -> Frame:
    return replace(make_frame(), qp=qp, duration=duration, **changes)


def test_the_first_frame_counts_as_it_is() -> None:
    assert LevelMeter().update(frame_with(26)) == level_of_qp(26) == 0.5
    assert LevelMeter().update(frame_with(None)) == 0  # too small to see anything


def test_a_change_takes_about_a_second_at_any_frame_rate() -> None:
    for duration in (1, 5):  # of 1/25 s
        meter = LevelMeter()
        for _ in range(250 // duration):
            meter.update(frame_with(20, duration))
        for _ in range(25 // duration):
            level = meter.update(frame_with(40, duration))
        assert level == pytest.approx(level_of_qp(40 - 20 / np.e), abs=1e-3)


def test_types_of_frames_are_averaged() -> None:
    meter = LevelMeter()
    pattern = [22, 32, 29, 32] * 25
    levels = [meter.update(frame_with(qp)) for qp in pattern]
    assert max(levels[25:]) - min(levels[25:]) < 0.02
    assert levels[-1] == pytest.approx(level_of_qp(float(np.mean(pattern))), abs=0.01)


def test_a_stream_that_tells_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(streamer.level, "blind_qp")
    meter = LevelMeter()
    assert meter.update(frame_with(20)) == meter.update(frame_with(None)) == level_of_qp(20)


def test_reset_forgets() -> None:
    meter = LevelMeter()
    meter.update(frame_with(40))
    meter.reset()
    assert meter.update(frame_with(20)) == level_of_qp(20)


def test_durations_that_are_unknown_do_no_harm() -> None:
    meter = LevelMeter()
    assert meter.update(frame_with(20, 0)) == level_of_qp(20)
    assert level_of_qp(20) < meter.update(frame_with(40, -3)) < level_of_qp(40)


def test_only_some_frames_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    monkeypatch.setattr(streamer.level, "blind_qp", lambda luma, bits: 20.0 + 4 * next(looks))
    meter = LevelMeter()
    levels = [meter.update(frame_with(None)) for _ in range(2 * MEASURED_EVERY + 1)]
    assert next(looks) == 3
    assert len(set(levels)) == 3
    assert levels[0] == level_of_qp(20)


# --- the blind estimate


@pytest.fixture(scope="module", name="clean")
def _clean() -> list[tuple[Luma, Luma, Luma]]:
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


def seen(sequence: list[Luma]) -> float:
    estimates = [blind_qp(luma) for luma in sequence[::3]]
    return float(np.mean([qp for qp in estimates if qp is not None]))


def test_clean_pictures_look_clean(clean: list[tuple[Luma, Luma, Luma]]) -> None:
    assert level_of_qp(seen([luma for luma, *_ in clean])) < 0.15
    soft = [np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0), np.uint8) for luma, *_ in clean]
    assert level_of_qp(seen(soft)) < 0.25


@pytest.mark.parametrize(("codec", "qualities"), [("h264", (14, 24, 32, 40)), ("jpeg", (95, 70, 40, 15))])
def test_more_compression_looks_like_more(
    clean: list[tuple[Luma, Luma, Luma]], codec: str, qualities: tuple[int, ...]
) -> None:
    decoded = [transcode(clean, Coding(codec, quality)) for quality in qualities]
    levels = [level_of_qp(seen([planes[0] for planes in one.sequence])) for one in decoded]
    assert levels == sorted(levels)
    for one, level in zip(decoded, levels, strict=True):
        assert level == pytest.approx(level_of_qp(one.qp), abs=0.3)


def test_more_noise_looks_like_more(clean: list[tuple[Luma, Luma, Luma]]) -> None:
    rng = np.random.default_rng(2)
    levels = []
    for sigma in (1.5, 4.0, 10.0):
        noisy = [np.clip(np.rint(luma + rng.normal(0, sigma, luma.shape)), 0, 255) for luma, *_ in clean]
        levels.append(level_of_qp(seen([luma.astype(np.uint8) for luma in noisy])))
        assert levels[-1] == pytest.approx(level_of_noise(sigma), abs=0.15)
    assert levels == sorted(levels)


def test_depth_and_memory_layout_make_no_difference(clean: list[tuple[Luma, Luma, Luma]]) -> None:
    luma = clean[0][0]
    padded = np.pad(luma, ((0, 0), (0, 32)))[:, :640]
    assert not padded.flags.c_contiguous
    deep = luma.astype(np.uint16) << 2
    assert blind_qp(luma) == blind_qp(padded) == blind_qp(deep, 10)


@pytest.mark.parametrize("shape", [(1, 1), (24, 24), (24, 400), (40, 40), (25, 72)])
def test_pictures_too_small_are_not_judged(shape: tuple[int, int]) -> None:
    assert blind_qp(np.random.default_rng(0).integers(0, 255, shape, np.uint8)) is None


def test_bars_are_not_judged(clean: list[tuple[Luma, Luma, Luma]]) -> None:
    assert blind_qp(np.full((720, 1280), 16, np.uint8)) is None
    barred = np.pad(clean[0][0], ((160, 160), (0, 0)), constant_values=16)
    found, whole = blind_qp(barred), blind_qp(clean[0][0])
    assert found is not None
    assert whole is not None
    assert abs(found - whole) < 4


def test_any_picture_gives_a_number_in_range() -> None:
    rng = np.random.default_rng(3)
    x = np.arange(320)
    for luma in (
        rng.integers(0, 255, (240, 320), np.uint8),
        np.broadcast_to(x % 256, (240, 320)).astype(np.uint8),
        np.where((x // 16 + np.arange(240)[:, None] // 16) % 2, 235, 16).astype(np.uint8),
        rng.integers(0, 2, (240, 320), np.uint8) * 255,
    ):
        qp = blind_qp(luma)
        assert qp is None or QP_RANGE[0] <= qp <= QP_RANGE[1]


# --- the stage


@pytest.fixture(name="toy")
def _toy(tmp_path: Path) -> ModelCard:
    """A conditioned model: the higher the level, the brighter the picture."""
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


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_fixed_level_goes_to_every_frame(toy: ModelCard, level: float) -> None:
    stage = EnhanceStage(toy, strength=0, level=level)
    assert stage.level is None
    assert stage.mean_level is None
    frames = [dark_frame(number, 40) for number in range(3)]
    assert results(stage, frames) == pytest.approx([level] * 3, abs=0.01)
    assert stage.level == stage.mean_level == level


@pytest.mark.parametrize("max_tile_px", [1 << 20, 900])
def test_levels_follow_the_stream_and_are_one_for_all_tiles(toy: ModelCard, max_tile_px: int) -> None:
    meter = LevelMeter()
    frames = [dark_frame(number, 20 + 4 * number) for number in range(5)]
    wanted = [meter.update(frame) for frame in frames]
    stage = EnhanceStage(toy, strength=0, max_tile_px=max_tile_px)
    assert results(stage, frames) == pytest.approx(wanted, abs=0.01)
    assert stage.level == wanted[-1]
    assert stage.mean_level == pytest.approx(np.mean(wanted))


def test_levels_begin_anew_with_a_discontinuity_and_a_reset(toy: ModelCard) -> None:
    frames = [dark_frame(0, 20), dark_frame(1, 20), dark_frame(2, 40, discontinuity=True)]
    stage = EnhanceStage(toy, strength=0)
    assert results(stage, frames)[-1] == pytest.approx(level_of_qp(40), abs=0.01)
    assert results(stage, [dark_frame(0, 12)]) == pytest.approx([level_of_qp(12)], abs=0.01)


def test_models_without_the_input_get_no_level(tmp_path: Path) -> None:
    plain = toy_card(tmp_path, conditioned=False)
    stage = EnhanceStage(plain, strength=0)
    assert results(stage, [dark_frame(0, 40)]) == [0.0]
    assert stage.level is None
    assert stage.mean_level is None
    with pytest.raises(UsageError, match="model toy takes no level: leave out --level"):
        EnhanceStage(plain, level=0.5)


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_levels_out_of_range_are_refused(toy: ModelCard, level: float) -> None:
    with pytest.raises(UsageError, match=r"0 \(clean\) to 1"):
        EnhanceStage(toy, level=level)


def test_a_job_says_its_mean_level(toy: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.job, "choose_model", lambda name, scale: toy)
    clip = Clip(options={"qp": "26", **SAME_IN_ALL_FRAMES}).write(tmp_path / "in.mp4")
    assert streamer.job.enhance(clip, "null:").level == 0.5
    assert streamer.job.enhance(clip, "null:", level=0.25).level == 0.25
    monkeypatch.setattr(streamer.job, "choose_model", lambda name, scale: None)
    assert streamer.job.enhance(clip, "null:").level is None


def test_pictures_are_judged_each_by_itself(toy: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.image, "choose_model", lambda name, scale: toy)
    rng = np.random.default_rng(0)
    clean = np.full((96, 128), 60, np.uint8)
    noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    with ImageEnhancer(strength=0) as enhancer:
        brighter = [float(enhancer.enhance(image).mean() - image.mean()) for image in (clean, noisy, clean)]
    assert brighter[0] == brighter[2] == 0
    assert brighter[1] > 20
    with ImageEnhancer(strength=0, level=1) as enhancer:
        assert float(enhancer.enhance(clean).mean() - 60) == pytest.approx(255 * BRIGHTER, abs=1)
