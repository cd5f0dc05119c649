"""The governor's lighter networks on an engine that builds plans: from the cache, or built beside the stream."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines import PlanBuild, PlanCache, background
from onnx_models.cards import load_card
from streamer import plans
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame
from streamer.ladder import Ladder
from tests.clips import make_frame
from tests.gpu.children import PATIENCE_S, Gate
from tests.test_ladder import Script

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

WIDTH, HEIGHT, FRAMES = 64, 48, 12
MAIN, LIGHTER = "upscale-x2-small", "upscale-x2-nano"
WITHOUT = [MAIN, f"{MAIN} on every 2nd frame", "interpolation"]
WITH = [MAIN, LIGHTER, f"{LIGHTER} on every 2nd frame", "interpolation"]
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


def numbered(number: int) -> Frame:
    frame = make_frame(width=WIDTH, height=HEIGHT)
    luma = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    return replace(frame, planes=(luma, *frame.planes[1:]), index=number, pts=number)


def stage_for(
    model: str = MAIN, *, at_once: bool = True, governed: bool = True, engine: str = "tensorrt"
) -> EnhanceStage:
    return EnhanceStage(load_card(model), engine=engine, level=0.3, noise=0.1, at_once=at_once, governed=governed)


def opened(stage: EnhanceStage) -> Ladder:
    stage.open(numbered(0).format)
    assert stage.ladder is not None
    return stage.ladder


def prepared(ladder: Ladder) -> None:
    """Returns when all that can be made ready is."""
    assert ladder._opener is not None
    ladder._opener.join(PATIENCE_S)
    assert not ladder._opener.is_alive()


def names(ladder: Ladder) -> list[str]:
    assert ladder.governor is not None
    return [level.name for level in ladder.governor.levels]


def pictures(model: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """What a network makes of every frame."""
    stage = stage_for(model, engine="openvino", governed=False)
    stage.open(numbered(0).format)
    results = run_through(stage, range(FRAMES))
    stage.close()
    return [frame.planes[0] for frame in results]


def run_through(stage: EnhanceStage, numbers: range) -> list[Frame]:
    results = [frame for number in numbers for frame in stage.process(numbered(number))]
    return results + list(stage.flush())


@pytest.fixture
def main_plan(simulated_gpu: SimulatedGpu) -> None:
    plans.build(MAIN, f"{WIDTH}x{HEIGHT}", stabilise=False)


@pytest.fixture
def both_plans(main_plan: None) -> None:
    plans.build(LIGHTER, f"{WIDTH}x{HEIGHT}", stabilise=False)


def test_a_lighter_network_whose_plan_is_there_is_used(both_plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlanBuild, "start", None)
    stage = stage_for()
    ladder = opened(stage)
    assert names(ladder) == WITHOUT
    prepared(ladder)
    list(stage.process(numbered(0)))
    assert names(ladder) == WITH
    assert ladder.governor is not None
    script = Script(ladder.governor.levels, ladder.governor.budget_ns)
    script.plan = {1: 1}
    ladder.governor = script
    run_through(stage, range(1, 4))
    results = run_through(stage, range(4, FRAMES))
    stage.close()
    assert [frame.index for frame in results] == list(range(4, FRAMES))
    wanted = {model: pictures(model) for model in (MAIN, LIGHTER)}
    for frame in results:
        errors = {model: np.abs(wanted[model][frame.index].astype(int) - frame.planes[0]).mean() for model in wanted}
        assert min(errors, key=lambda model: errors[model]) == LIGHTER
    assert ladder.frames[LIGHTER] >= len(results)


def test_a_missing_plan_is_built_beside_the_stream(main_plan: None, real_child: None, gate: Gate) -> None:
    stage = stage_for()
    ladder = opened(stage)
    before = run_through(stage, range(5))
    assert names(ladder) == WITHOUT
    assert len(before) == 5, "while the child is held back"
    gate.open()
    prepared(ladder)
    after = run_through(stage, range(5, FRAMES))
    assert names(ladder) == WITH
    stage.close()
    assert [frame.index for frame in before + after] == list(range(FRAMES))
    assert len(PlanCache().entries()) == 2
    assert stage.counts == {}


@pytest.mark.slow
def test_while_the_chosen_network_waits_for_its_own_plan_no_other_is_built(real_child: None, gate: Gate) -> None:
    """A CPU stands in, with its own lighter networks; when the GPU takes over, it is the lighter ones' turn."""
    stage = stage_for(engine="auto")
    ladder = opened(stage)
    assert stage.engine_name == "openvino"
    prepared(ladder)
    run_through(stage, range(2))
    assert names(ladder) == WITH
    gate.end(stage)
    run_through(stage, range(2, 4))
    assert stage.engine_name == "tensorrt"
    assert names(ladder) == WITHOUT
    gate.open()
    prepared(ladder)
    run_through(stage, range(4, 6))
    assert names(ladder) == WITH
    assert {rung.network.engine.name for rung in ladder._rungs} == {"tensorrt"}
    stage.close()


@pytest.mark.slow
def test_a_build_that_fails_costs_nothing_but_the_network(
    main_plan: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no memory is left')"))
    stage = stage_for()
    ladder = opened(stage)
    prepared(ladder)
    assert len(run_through(stage, range(3))) == 3
    assert names(ladder) == WITHOUT
    stage.close()
    assert f"the governor goes without {LIGHTER}: the process that builds it ended with code 1: no memory is left" in (
        caplog.text
    )


def test_the_end_of_the_stream_is_the_end_of_the_build(
    main_plan: None, real_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, children = PlanBuild.start, threading.Event(), list[subprocess.Popen[bytes]]()

    def start(self: PlanBuild) -> None:
        real(self)
        assert self._child is not None
        children.append(self._child)
        begun.set()

    monkeypatch.setattr(PlanBuild, "start", start)
    stage = stage_for()
    opened(stage)
    assert begun.wait(PATIENCE_S)
    stage.close()
    assert [child.returncode is None for child in children] == [False]
    assert len(PlanCache().entries()) == 1


@pytest.mark.slow
def test_a_job_that_waits_builds_nothing_beside(
    main_plan: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PlanBuild, "start", None)
    caplog.set_level(logging.INFO)
    stage = stage_for(at_once=False)
    ladder = opened(stage)
    prepared(ladder)
    run_through(stage, range(2))
    stage.close()
    assert f"the governor goes without {LIGHTER}, whose plan isn't in the cache" in caplog.text


def test_a_plan_that_is_gone_again_isnt_built_while_frames_wait(
    both_plans: None, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_for()
    ladder = opened(stage)
    prepared(ladder)
    PlanCache().clear()
    assert len(run_through(stage, range(3))) == 3
    assert names(ladder) == WITHOUT
    stage.close()
    assert f"the governor goes without {LIGHTER}: " in caplog.text
    assert "in the cache and is there no more" in caplog.text
    assert not PlanCache().entries()


@pytest.mark.slow
def test_too_little_memory_for_a_lighter_network(
    both_plans: None, simulated_gpu: SimulatedGpu, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_for()
    ladder = opened(stage)
    prepared(ladder)
    simulated_gpu.fail("cuMemAlloc", OUT_OF_MEMORY)
    assert len(run_through(stage, range(3))) == 3
    assert names(ladder) == WITHOUT
    stage.close()
    assert f"the governor goes without {LIGHTER}: " in caplog.text
    assert "are tried" not in caplog.text, "tiles would need another plan"


@pytest.mark.slow
def test_a_lost_device_takes_lighter_networks_with_it(
    both_plans: None, simulated_gpu: SimulatedGpu, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = stage_for()
    ladder = opened(stage)
    prepared(ladder)
    results = run_through(stage, range(3))
    assert names(ladder) == WITH
    simulated_gpu.fail("cuEventSynchronize", ILLEGAL_ADDRESS)
    results += run_through(stage, range(3, FRAMES))
    assert stage.engine_name == "openvino"
    assert {rung.network.engine.name for rung in ladder._rungs} == {"openvino"}
    stage.close()
    simulated_gpu.violations()
    simulated_gpu.reset()
    assert [frame.index for frame in results] == list(range(FRAMES))
