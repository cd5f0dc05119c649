"""Starting at once on another engine while a child process builds the plan, and going over to it between two frames."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import engines
from engines import PlanBuild, PlanCache, background
from onnx_models.cards import ModelCard, load_card
from streamer import plans
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame, VideoFormat
from streamer.guard import HITS
from streamer.pipeline import Pipeline
from streamer.sinks.null import NullSink
from streamer.stage import Media
from tests.clips import make_frame
from tests.gpu.children import Gate, child_of

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

WIDTH, HEIGHT, PATIENCE_S = 64, 48, 120.0
BEFORE, FRAMES = 7, 20
ENDS_WELL, ENDS_BADLY = "pass", "import sys; print('x'); sys.exit('no memory is left')"


@pytest.fixture
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def scripted(monkeypatch: pytest.MonkeyPatch, gate: Gate, script: str) -> None:
    held_back = f"open({str(gate.path)!r}, 'rb', 0).read(1)\n{script}"
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", held_back))


def numbered(number: int) -> Frame:
    """A picture of noise that no other number has."""
    frame = make_frame(width=WIDTH, height=HEIGHT)
    luma = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    never_late = sys.maxsize
    return replace(frame, planes=(luma, *frame.planes[1:]), index=number, pts=number, captured_ns=never_late)


def live(card: ModelCard, engine: str = "auto", *, governed: bool = False) -> EnhanceStage:
    return EnhanceStage(card, engine=engine, level=0.3, noise=0.1, at_once=True, governed=governed)


def check(card: ModelCard, results: list[Frame], interpolated: int = 0) -> None:
    """All of them, once, in order, and each is what becomes of its own picture, in int8, float16 or float32.

    The first ones may be interpolations.
    """
    assert [frame.index for frame in results] == list(range(FRAMES))
    stage, wanted = EnhanceStage(card, engine="openvino", level=0.3, noise=0.1, precision="f32"), list[Frame]()
    stage.open(numbered(0).format)
    for number in range(FRAMES):
        stage.strength = 0.0 if number < interpolated else 1.0
        wanted += stage.process(numbered(number))
    wanted += stage.flush()
    stage.close()
    for found, reference in zip(results, wanted, strict=True):
        assert np.abs(found.planes[0].astype(int) - reference.planes[0]).mean() < 3, found.index


def run_through(stage: EnhanceStage, results: list[Frame], numbers: range) -> None:
    for number in numbers:
        results += stage.process(numbered(number))


@pytest.mark.parametrize("governed", [False, True])
def test_a_live_job_starts_at_once_and_goes_over_to_the_gpu(
    card: ModelCard, real_child: None, gate: Gate, caplog: pytest.LogCaptureFixture, governed: bool
) -> None:
    stage, results = live(card, governed=governed), list[Frame]()
    with caplog.at_level(logging.INFO):
        stage.open(numbered(0).format)
        assert stage.engine_name == "openvino"
        run_through(stage, results, range(BEFORE))
        gate.end(stage)
        assert len(results) < BEFORE, "some are still under way"
        run_through(stage, results, range(BEFORE, FRAMES))
        assert (stage.engine_name, stage.precision) == ("tensorrt", "f16")
        results += stage.flush()
        stage.close()
    check(card, results)
    assert stage.counts == {"engine swaps": 1}
    assert "the plan of tensorrt is built: it takes over from openvino" in caplog.text
    assert len(PlanCache().entries()) == 1


def test_with_a_plan_in_the_cache_it_starts_on_the_gpu(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.build(card.name, f"{WIDTH}x{HEIGHT}", stabilise=False)
    monkeypatch.setattr(PlanBuild, "start", None)
    stage, results = live(card), list[Frame]()
    stage.open(numbered(0).format)
    assert stage.engine_name == "tensorrt"
    run_through(stage, results, range(FRAMES))
    results += stage.flush()
    stage.close()
    check(card, results)
    assert stage.counts == {}


@pytest.mark.parametrize(("engine", "at_once"), [("tensorrt", True), ("auto", False)])
def test_otherwise_the_plan_is_waited_for(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, engine: str, at_once: bool
) -> None:
    monkeypatch.setattr(PlanBuild, "start", None)
    stage = EnhanceStage(card, engine=engine, at_once=at_once)
    stage.open(numbered(0).format)
    assert stage.engine_name == "tensorrt"
    stage.close()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (ENDS_BADLY, "ended with code 1: no memory is left"),
        (f"import os, signal; os.kill(os.getpid(), {9})", "was ended by signal 9"),
        (ENDS_WELL, "built, but could not be kept in the cache"),
    ],
)
def test_without_a_plan_the_job_stays_where_it_is(
    card: ModelCard,
    simulated_gpu: SimulatedGpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gate: Gate,
    script: str,
    told: str,
) -> None:
    scripted(monkeypatch, gate, script)
    stage, results = live(card), list[Frame]()
    stage.open(numbered(0).format)
    run_through(stage, results, range(BEFORE))
    gate.end(stage)
    run_through(stage, results, range(BEFORE, FRAMES))
    results += stage.flush()
    stage.close()
    check(card, results)
    assert (stage.engine_name, stage.counts) == ("openvino", {})
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("there is no plan of tensorrt, so openvino goes on: ")
    assert told in warning


def test_a_child_that_is_killed_by_somebody(
    card: ModelCard,
    simulated_gpu: SimulatedGpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gate: Gate,
) -> None:
    scripted(monkeypatch, gate, ENDS_WELL)
    stage = live(card)
    stage.open(numbered(0).format)
    process = child_of(stage)._child
    assert process is not None
    list(stage.process(numbered(0)))
    assert process.poll() is None
    process.kill()
    process.wait(PATIENCE_S)
    list(stage.process(numbered(1)))
    stage.close()
    assert caplog.text.count("was ended by signal 9") == 1


def test_the_end_of_the_job_is_the_end_of_the_child(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    scripted(monkeypatch, gate, ENDS_WELL)
    stage = live(card)
    stage.open(numbered(0).format)
    process = child_of(stage)._child
    assert process is not None
    stage.close()
    assert process.returncode is not None
    stage.close()


def test_a_child_does_not_outlive_a_parent_that_crashed() -> None:
    script = (
        "import threading, engines.background as b;"
        "b.build_engine = lambda *_, **__: print('on', flush=True) or threading.Event().wait(); b.main()"
    )
    command = [sys.executable, "-c", script, engines.EngineRequest(Path("x"), 8, 8).to_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"on\n"
        child.stdin.close()  # as the system does when the parent is gone
        assert child.wait(PATIENCE_S) == 1


def test_a_build_that_fails_says_why_in_its_last_line(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = PlanBuild(engines.EngineRequest(card.path, 8, 8, engine="openvino"))
    build.start()
    build.wait(PATIENCE_S)
    assert build.ended
    assert "the openvino engine builds no plans: use tensorrt or tensorrt-rtx" in build.failure()
    build.stop()
    build.stop()


def test_a_system_without_room_for_a_child_is_told(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "COMMAND", ("/does/not/exist",))
    stage = live(card)
    stage.open(numbered(0).format)
    stage.close()
    assert stage.engine_name == "openvino"
    assert "cannot start a process that builds a plan: No such file" in caplog.text


def test_a_live_job_whose_float16_is_black_goes_to_the_cpu_and_then_to_more_float32(
    card: ModelCard, real_child: None, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plans.build(card.name, f"{WIDTH}x{HEIGHT}", stabilise=False)
    real, first = engines.TensorRTEngine._collect, dict[str, engines.Engine]()

    def spoil(self: engines.TensorRTEngine, slot: int) -> None:
        real(self, slot)
        if first.setdefault("engine", self) is self:
            self._buffers[slot].outputs["enhanced"][...] = 0

    monkeypatch.setattr(engines.TensorRTEngine, "_collect", spoil)
    caplog.set_level(logging.INFO)
    stage, results, ran = live(card), list[Frame](), list[tuple[str, str]]()
    stage.open(numbered(0).format)
    for number in range(FRAMES):
        if number == FRAMES - 5:
            gate.end(stage)
        results += stage.process(numbered(number))
        ran.append((stage.engine_name, stage.precision))
    results += stage.flush()
    stage.close()
    assert [name for name, _ in groupby(name for name, _ in ran)] == ["tensorrt", "openvino", "tensorrt"]
    assert ran[-1] == ("tensorrt", "f16")
    spoilt = stage.counts["replaced frames"]
    assert stage.counts == {"replaced frames": spoilt, "engines replaced": 1, "engine swaps": 1}
    assert HITS <= spoilt <= HITS + 3
    check(card, results, interpolated=spoilt)
    assert "tensorrt gave 3 damaged pictures among 100: openvino takes its place" in caplog.text
    assert "the plan of tensorrt with float32 islands is built: it takes over from openvino" in caplog.text


class Camera:
    """Live: gives numbered pictures, and after some of them only goes on when the child has ended."""

    live = True
    frames_total = None
    counts: Mapping[str, int] = {}
    notes: Sequence[str] = ()
    media = Media()

    def __init__(self, stage: EnhanceStage, opened: threading.Event, gate: Gate) -> None:
        self._stage, self._opened, self._gate, self._given = stage, opened, gate, 0

    @property
    def format(self) -> VideoFormat:
        return numbered(0).format

    def open(self) -> None:
        pass

    def read(self) -> Frame | None:
        if self._given == BEFORE:
            assert self._opened.wait(PATIENCE_S)
            self._gate.end(self._stage)
        if self._given == FRAMES:
            return None
        self._given += 1
        return numbered(self._given - 1)

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_live_pipeline_counts_every_frame(card: ModelCard, real_child: None, gate: Gate) -> None:
    stage, opened, results = live(card), threading.Event(), list[Frame]()
    real = stage._runner.open

    def open_and_tell(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        opened.set()

    stage._runner.open = open_and_tell  # type: ignore[method-assign, assignment]
    with Pipeline(Camera(stage, opened, gate), [stage], [NullSink()], on_frame=results.append) as pipeline:
        pass
    indices = [frame.index for frame in results]
    assert indices == sorted(set(indices))
    assert len(indices) + pipeline.stats.dropped == FRAMES
    assert indices[-1] == FRAMES - 1
    assert stage.engine_name == "tensorrt"
    assert pipeline.stats.events == {"engine swaps": 1}
