"""An engine that fails in mid-run: what it had under way is enhanced by the next one, all of it, once and in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import engines
import streamer
from engines import InferenceError
from onnx_models.cards import ModelCard, load_card
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame
from tests import faulty
from tests.clips import make_frame
from tests.faulty import FaultyEngine

FRAMES = 9


@pytest.fixture
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def noise(number: int, width: int = 97, height: int = 61) -> Frame:
    frame = make_frame(width=width, height=height)
    rng = np.random.default_rng(number)
    planes = tuple(rng.integers(0, 256, plane.shape, np.uint8) for plane in frame.planes)
    return replace(frame, planes=planes, index=number, pts=number)


def run(stage: EnhanceStage, wake: Callable[[], None] | None = None) -> list[Frame]:
    stage.wake = wake
    stage.open(noise(0).format)
    try:
        results = list[Frame]()
        for number in range(FRAMES):
            results += stage.process(noise(number))
            if wake is not None:
                results += stage.ready()
        return [*results, *stage.flush()]
    finally:
        stage.close()


def stage_for(card: ModelCard, **settings: Any) -> EnhanceStage:
    return EnhanceStage(card, level=0.3, noise=0.1, precision="f32", **settings)


def breaking(patch: pytest.MonkeyPatch, where: str, number: int, **settings: Any) -> None:
    """The faulty engine fails at its `number`-th submission or collection, and ever after."""
    faulty.install(patch, lambda *_: None, **settings)
    real, seen = getattr(FaultyEngine, where), [0]

    def fail(self: FaultyEngine, slot: int) -> None:
        if self._free or self._flying:  # not while it warms up
            seen[0] += 1
            if seen[0] >= number:
                raise RuntimeError("an illegal memory access was encountered")
        real(self, slot)

    patch.setattr(FaultyEngine, where, fail)


def check(results: list[Frame], wanted: list[Frame]) -> None:
    assert [frame.index for frame in results] == list(range(FRAMES))
    for result, other in zip(results, wanted, strict=True):
        for plane, like in zip(result.planes, other.planes, strict=True):
            difference = np.abs(plane.astype(int) - like)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001
            assert not plane.flags.writeable


@pytest.fixture(scope="module")
def wanted() -> list[Frame]:
    """What becomes of them on the engine that takes over in the end."""
    return run(stage_for(load_card("upscale-x2-nano"), engine="openvino"))


@pytest.mark.parametrize("max_tile_px", [None, 2500], ids=["whole", "tiles"])
@pytest.mark.parametrize("where", ["_submit", "_collect"])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_frames_under_way_are_enhanced_by_the_next_engine(
    card: ModelCard,
    wanted: list[Frame],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    number: int,
    max_tile_px: int | None,
) -> None:
    breaking(monkeypatch, where, number)
    stage = stage_for(card, max_tile_px=max_tile_px)
    check(run(stage), wanted)
    assert stage.engine_name == "openvino"
    assert stage.counts == {"engines failed": 1}
    assert "failed: the faulty engine failed while running upscale-x2-nano.onnx" in caplog.text
    assert "openvino in f32 takes the place of faulty in f32, and the frames that were under way" in caplog.text


@pytest.mark.parametrize("where", ["_submit", "_collect"])
def test_frames_that_leave_as_soon_as_they_are_done(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    breaking(monkeypatch, where, 4)
    stage = stage_for(card, governed=True)
    results = run(stage, wake=lambda: None)
    assert [frame.index for frame in results] == list(range(FRAMES))
    assert (stage.engine_name, stage.counts["engines failed"]) == ("openvino", 1)


def test_one_failure_after_the_other(card: ModelCard, wanted: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    """While frames are given to the next engine, that fails, too."""
    if not {"openvino", "onnxruntime"} <= {row.name for row in engines.available_engines() if row.usable}:
        pytest.skip("it takes two engines besides")
    breaking(monkeypatch, "_collect", 3)
    real = engines.OpenVINOEngine._collect

    def fail(self: engines.OpenVINOEngine, slot: int) -> None:
        if type(self) is engines.OpenVINOEngine and self._flying:
            raise RuntimeError("no more")
        real(self, slot)

    monkeypatch.setattr(engines.OpenVINOEngine, "_collect", fail)
    stage = stage_for(card)
    check(run(stage), wanted)
    assert (stage.engine_name, stage.counts) == ("onnxruntime", {"engines failed": 2})


def test_without_another_engine_it_is_the_jobs_end(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "_collect", 4, alone=True)
    with pytest.raises(InferenceError, match="illegal memory access"):
        run(stage_for(card))


def test_other_ways_of_the_same_engine_are_not_tried(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaking(monkeypatch, "_collect", 4)
    opened = []
    real = FaultyEngine._open

    def count(self: FaultyEngine) -> list[engines.SlotBuffers]:
        opened.append(self.precision)
        return real(self)

    monkeypatch.setattr(FaultyEngine, "_open", count)
    stage = EnhanceStage(card, level=0.3, noise=0.1)
    assert len(run(stage)) == FRAMES
    assert opened == ["f16"]
    assert stage.engine_name == "openvino"


def test_a_job_goes_on_and_counts_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    breaking(monkeypatch, "_collect", 6)
    with caplog.at_level(logging.WARNING):
        summary = streamer.enhance("test:96x64@25,12", ["null:"], model="upscale-x2-nano")
    assert (summary.frames, summary.engine) == (12, "openvino")
    assert summary.stats["events"]["engines failed"] == 1
