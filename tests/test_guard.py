"""The guard against damaged pictures: what it finds, what takes their place, and what it must never take for damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import engines
import streamer
from engines.base import Array, EngineError
from onnx_models.cards import ModelCard, list_cards, load_card
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame, Plane
from streamer.guard import HITS, WINDOW, Guard, is_damaged
from streamer.sources import make_source
from tests import faulty
from tests.clips import make_frame
from tests.faulty import FaultyEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = Path(streamer.__file__).parent / "samples" / "book.mkv"
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def scene(number: int, bits: int = 8) -> Frame:
    """A picture that no other number has: waves of its own, in video's range."""
    frame = make_frame("yuv420p" if bits == 8 else "yuv420p10le", WIDTH, HEIGHT)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = 120 + 60 * np.sin(x / 9 + number) + 30 * np.cos(y / (5 + number % 7))
    luma = (waves * (1 << (bits - 8))).astype(frame.planes[0].dtype)
    return replace(frame, planes=(luma, *frame.planes[1:]), index=number, pts=number)


def stage_for(card: ModelCard, **settings: object) -> EnhanceStage:
    return EnhanceStage(card, level=0.3, noise=0.1, **settings)  # type: ignore[arg-type]


def run(stage: EnhanceStage, frames: list[Frame]) -> list[Frame]:
    stage.open(frames[0].format)
    try:
        return [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    finally:
        stage.close()


def check(card: ModelCard, frames: list[Frame], results: list[Frame], interpolated: set[int]) -> None:
    """Each frame once and in its place, as the network makes it or, if listed, as the interpolation does."""
    assert [result.index for result in results] == [frame.index for frame in frames]
    good = run(stage_for(card, engine="openvino", precision="f32"), frames)
    plain = run(stage_for(card, engine="openvino", precision="f32", strength=0), frames)
    for result, enhanced, interpolation in zip(results, good, plain, strict=True):
        wanted = interpolation if result.index in interpolated else enhanced
        codes = 2 << (wanted.format.layout.bits - 8)  # the interpolation is rounded after each of its two passes
        assert np.abs(result.planes[0].astype(int) - wanted.planes[0]).max() <= codes, result.index
        assert all(np.array_equal(a, b) for a, b in zip(result.planes[1:], wanted.planes[1:], strict=True))


def black(picture: Array) -> None:
    picture[...] = 0


def constant(picture: Array) -> None:
    picture[...] = 128


def shifted(picture: Array) -> None:
    picture[...] = np.clip(picture.astype(int) + 40, 0, 255)


def rolled(picture: Array) -> None:
    picture[...] = np.roll(picture, picture.shape[1] // 3, axis=1)


def garbage(picture: Array) -> None:
    picture[...] = np.random.default_rng(1).integers(0, 256, picture.shape)


def half_black(picture: Array) -> None:
    picture[: len(picture) // 2] = 0


# --- damage


@pytest.mark.parametrize("spoil", [black, constant, shifted, rolled, garbage, half_black])
def test_a_damaged_frame_becomes_its_interpolation(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil: faulty.Spoil
) -> None:
    faulty.install(monkeypatch, lambda number, _, picture: spoil(picture) if number in (3, 5) else None)
    frames, stage = [scene(number) for number in range(9)], stage_for(card)
    check(card, frames, run(stage, frames), {3, 5})
    assert stage.counts == {"replaced frames": 2}
    assert stage.engine_name == faulty.NAME
    assert caplog.text.count("damaged picture") == 1


def test_what_is_not_a_number_is_damage_too(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(monkeypatch, lambda number, _, picture: picture.fill(np.nan) if number == 2 else None)
    frames, stage = [scene(number, 10) for number in range(4)], stage_for(card)
    check(card, frames, run(stage, frames), {2})
    assert stage.counts == {"replaced frames": 1}


def test_a_damaged_tile_is_found(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(monkeypatch, lambda number, _, picture: black(picture) if number == 1 else None)
    frames, stage = [scene(number) for number in range(3)], stage_for(card, max_tile_px=3000)
    check(card, frames, run(stage, frames), {0})
    assert stage.counts == {"replaced frames": 1}


def test_a_cpu_is_trusted(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(monkeypatch, lambda number, _, picture: black(picture), on_gpu=False)
    stage = stage_for(card)
    assert not any(result.planes[0].any() for result in run(stage, [scene(1), scene(2)]))
    assert stage.counts == {}


# --- the engine's end


@pytest.mark.parametrize("engine", ["auto", faulty.NAME])
@pytest.mark.parametrize("at_once", [False, True])
def test_an_engine_that_keeps_on_is_replaced(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, engine: str, at_once: bool
) -> None:
    faulty.install(monkeypatch, lambda _, precision, picture: black(picture) if precision == "f16" else None)
    frames, stage = [scene(number) for number in range(16)], stage_for(card, engine=engine, at_once=at_once)
    results = run(stage, frames)
    spoilt = stage.counts["replaced frames"]
    assert 2 * HITS <= spoilt <= 2 * (HITS + 2)
    check(card, frames, results, set(range(spoilt)))
    assert stage.counts["engines replaced"] == 2
    assert (stage.engine_name, stage.precision) == (faulty.NAME, "f32")
    reason = f"gave {HITS} damaged pictures among {WINDOW}"
    assert f"faulty {reason}: faulty with float32 islands takes its place" in caplog.text
    assert f"faulty with float32 islands {reason}: faulty in f32 takes its place" in caplog.text


@pytest.mark.parametrize("why", ["damages too", "does not open"])
def test_after_float32_comes_the_next_engine(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    faulty.install(monkeypatch, lambda number, precision, picture: black(picture))
    if why == "does not open":
        real = FaultyEngine._open

        def refuse(self: FaultyEngine) -> list[engines.SlotBuffers]:
            if self.precision == "f32":
                raise EngineError("the GPU is full")
            return real(self)

        monkeypatch.setattr(FaultyEngine, "_open", refuse)
    frames, stage = [scene(number) for number in range(20)], stage_for(card, device=1)  # which the CPU doesn't have
    results = run(stage, frames)
    check(card, frames, results, set(range(stage.counts["replaced frames"])))
    assert stage.engine_name == "openvino"
    assert stage.counts["engines replaced"] == (3 if why == "damages too" else 2)
    assert ("faulty in f32 is passed over: the GPU is full" in caplog.text) == (why == "does not open")


def test_the_next_engine_is_judged_by_its_own_pictures(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(
        monkeypatch, lambda number, precision, picture: black(picture) if precision == "f16" or number == 2 else None
    )
    frames, stage = [scene(number) for number in range(20)], stage_for(card)
    assert len(run(stage, frames)) == 20
    assert stage.counts["engines replaced"] == 2
    assert 2 * HITS + 1 <= stage.counts["replaced frames"] <= 2 * (HITS + 2) + 1
    assert (stage.engine_name, stage.precision) == (faulty.NAME, "f32")


def test_without_another_engine_frames_are_interpolated(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.install(monkeypatch, lambda number, precision, picture: black(picture), alone=True)
    frames, stage = [scene(number) for number in range(16)], stage_for(card, engine=faulty.NAME, precision="f32")
    results = run(stage, frames)
    monkeypatch.undo()
    check(card, frames, results, set(range(16)))
    assert stage.counts == {"replaced frames": 16}
    assert caplog.text.count("damaged") == 1


def test_an_engine_may_err_now_and_then() -> None:
    good = np.full((64, 64), 90, np.uint8)
    spacing, guard = WINDOW // (HITS - 1), Guard(8, 1)
    for number in range(10 * spacing):
        assert not guard.inspect(good, np.zeros_like(good) if number % spacing == 0 else good.copy())
    assert guard.replaced == 10
    verdicts = [guard.inspect(good, np.zeros_like(good)) for _ in range(HITS)]
    assert verdicts[-1]
    guard.reset()
    assert not guard.inspect(good, np.zeros_like(good))


def test_the_events_of_a_job_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(monkeypatch, lambda _, precision, picture: black(picture) if precision == "f16" else None)
    summary = streamer.enhance("test:96x64@25,16", ["null:"], model="upscale-x2-nano")
    assert summary.stats["events"]["engines replaced"] == 2
    assert summary.stats["events"]["replaced frames"] >= 2 * HITS
    assert (summary.frames, summary.engine, summary.precision) == (16, faulty.NAME, "f32")


# --- no false alarms


def strange_pictures() -> Iterator[Plane]:
    """What networks may find hard: extremes, noise, and patterns as fine as pixels."""
    rng, shape = np.random.default_rng(0), (96, 160)
    y, x = np.indices(shape)
    for value in (0, 16, 235, 255):
        yield np.full(shape, value, np.uint8)
    yield rng.integers(0, 256, shape, np.uint8)
    for share in (0.05, 0.5, 0.95):
        yield ((rng.random(shape) < share) * 255).astype(np.uint8)
    for middle in (16, 128):
        yield np.clip(rng.normal(middle, 60, shape), 0, 255).astype(np.uint8)
    for pattern in ((x + y) % 2, x % 2, x // 3 % 2, (x // 5 + y // 5) % 2, (x // 8 + y // 8) % 2):
        yield (pattern * 255).astype(np.uint8)
    yield np.where((x - 80) ** 2 + (y - 48) ** 2 < 900, 255, 0).astype(np.uint8)


def sample_clip() -> Iterator[Plane]:
    """Some pictures of the packaged clip: as they are, in a fade to black, and flashing."""
    source = make_source(str(SAMPLE))
    source.open()
    number = 0
    while (frame := source.read()) is not None:
        number += 1
        if number % 60 == 0:
            luma = frame.planes[0].astype(np.float32)
            for gain, lift in ((1, 0), (0.5, 8), (0.1, 14), (1, 120), (3, 0)):
                yield np.clip(luma * gain + lift, 0, 255).astype(np.uint8)
    source.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [card.name for card in list_cards()])
@pytest.mark.parametrize("pictures", [strange_pictures, sample_clip])
def test_no_shipped_model_is_taken_for_damage(name: str, pictures: faulty.Pictures) -> None:
    card, engine = load_card(name), None
    for number, luma in enumerate(pictures()):
        height, width = luma.shape
        if engine is None:
            engine = engines.open_engine(
                engines.EngineRequest(card.path, width, height, engine="openvino", precision="f32")
            )
        for strength in (0.0, 0.5, 1.0, 1.5) if pictures is strange_pictures else (1.0, 1.5):
            for level in (0.0, 1.0) if card.conditioned else (0.0,):
                told = {spec.name: np.full(1, level, np.float32) for spec in engine.inputs}
                feeds = told | {"luma": luma[None, None], "strength": np.full(1, strength, np.float32)}
                enhanced = engine.collect(engine.submit(feeds))["enhanced"][0, 0]
                assert not is_damaged(luma, enhanced, card.scale), (number, strength, level)
    assert engine is not None
    engine.close()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7), (7, 300), (65, 33)])
def test_any_size_has_blocks(size: tuple[int, int]) -> None:
    luma = np.full(size, 100, np.uint8)
    large = np.full((3 * size[0], 3 * size[1]), 100, np.uint8)
    assert not is_damaged(luma, large, 3)
    assert is_damaged(luma, 0 * large, 3)
