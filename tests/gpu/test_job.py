"""Jobs on the simulated GPU: whole frames with their chroma, too little memory, a device that is lost, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines import OutOfMemoryError, PlanCache, TensorRTEngine
from onnx_models.cards import ModelCard, load_card
from streamer import fitting, plans
from streamer.channel import Cancelled
from streamer.color import ChromaScaler
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame
from tests.clips import make_frame
from tests.gpu import standin
from tests.gpu.children import Gate
from tests.gpu.fixtures import NOTHING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gpu.device import SimulatedGpu

FRAMES, PATIENCE_S = 6, 60.0
INVALID_VALUE, OUT_OF_MEMORY, ILLEGAL_ADDRESS = 1, 2, 700


@pytest.fixture
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def noise(number: int, width: int = 97, height: int = 61, pix_fmt: str = "yuv420p") -> Frame:
    frame = make_frame(pix_fmt, width, height)
    layout, rng = frame.format.layout, np.random.default_rng(number)
    planes = tuple(rng.integers(0, 1 << layout.bits, plane.shape).astype(layout.dtype) for plane in frame.planes)
    return replace(frame, planes=planes, index=number, pts=number)


def stage_for(card: ModelCard, engine: str = "tensorrt", precision: str = "f32") -> EnhanceStage:
    return EnhanceStage(card, engine=engine, precision=precision, level=0.3, noise=0.1)


def run(stage: EnhanceStage, frames: list[Frame]) -> list[Frame]:
    stage.open(frames[0].format)
    try:
        return [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    finally:
        stage.close()


def check(results: list[Frame], frames: list[Frame], card: ModelCard) -> None:
    assert [frame.index for frame in results] == [frame.index for frame in frames]
    for result, wanted in zip(results, run(stage_for(card, "openvino"), frames), strict=True):
        for plane, other in zip(result.planes, wanted.planes, strict=True):
            difference = np.abs(plane.astype(int) - other)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001


# --- whole frames, with chroma


@pytest.mark.parametrize(
    ("model", "pix_fmt"),
    [
        ("upscale-x2-nano", "yuv420p"),
        ("upscale-x3-nano", "yuv422p10le"),
        ("upscale-x2-nano", "gray"),
        ("restore-x1-nano", "yuv420p"),
    ],
)
def test_a_job_on_the_gpu_equals_one_on_the_cpu(simulated_gpu: SimulatedGpu, model: str, pix_fmt: str) -> None:
    card, frames = load_card(model), [noise(number, pix_fmt=pix_fmt) for number in range(4)]
    check(run(stage_for(card), frames), frames, card)


def test_sizes_that_are_no_multiple_are_padded_with_their_edges(card: ModelCard, simulated_gpu: SimulatedGpu) -> None:
    frames, padded = [noise(0)], replace(card, multiple_of=8)
    check(run(stage_for(padded), frames), frames, padded)


def test_chroma_costs_the_cpu_no_arithmetic(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [noise(number, 96, 64) for number in range(FRAMES)]
    stage = stage_for(card, precision="auto")
    stage.open(frames[0].format)
    monkeypatch.setattr(ChromaScaler, "resample", None)
    simulated_gpu.clear_counts()
    results = [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    counts = simulated_gpu.counts()
    stage.close()
    monkeypatch.undo()
    assert len(results) == FRAMES
    per_frame = {name: count / FRAMES for name, count in counts.items()}
    assert per_frame == {"cuGraphLaunch": 1, "cuEventRecord": 1, "cuEventSynchronize": 1}


def test_the_limit_of_tiles_is_the_cpus(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "MAX_TILE_PX", 2500)
    frames = [noise(number) for number in range(3)]
    for engine, tiles in (("tensorrt", 1), ("openvino", 4)):
        stage = stage_for(card, engine)
        stage.open(frames[0].format)
        assert len(stage._runner.plan.tiles) == tiles
        stage.close()


def test_a_damaged_frame_gets_the_interpolation_of_all_planes(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TensorRTEngine._collect

    def spoil(self: TensorRTEngine, slot: int) -> None:
        real(self, slot)
        for plane in self._buffers[slot].outputs.values():
            plane[...] = 0

    frame = noise(1)
    (wanted,) = run(stage_for(card, "openvino"), [frame])
    monkeypatch.setattr(TensorRTEngine, "_collect", spoil)
    stage = stage_for(card)
    (found,) = run(stage, [frame])
    assert stage.counts["replaced frames"] == 1
    assert found.planes[0].any()
    for plane, other in zip(found.planes[1:], wanted.planes[1:], strict=True):
        assert np.array_equal(plane, other)


# --- memory

WIDTH, HEIGHT = 160, 100
WHOLE_BYTES = 2 * standin.SCRATCH_BYTES + (WIDTH * HEIGHT * 3 // 2) * 5
"""One slot: what an execution context takes, and the planes of a frame in and out."""


def test_too_little_memory_for_a_frame_gives_tiles(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fitting, "MIN_TILE_PX", WIDTH * HEIGHT // 2)
    simulated_gpu.reset(memory=WHOLE_BYTES - 1000)
    frames = [noise(number, WIDTH, HEIGHT) for number in range(2)]
    stage = stage_for(card)
    results = run(stage, frames)
    assert stage.engine_name == "tensorrt"
    assert "160x100: TensorRT refused the inference: Error Code 1: Cuda Runtime (out of memory)" in caplog.text
    assert caplog.text.count("are tried") == 1
    assert "tiles of 86x100 are tried" in caplog.text
    check(results, frames, card)


@pytest.mark.parametrize("engine", ["tensorrt", "auto"])
def test_the_smallest_tiles_are_the_end(
    card: ModelCard,
    simulated_gpu: SimulatedGpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    engine: str,
) -> None:
    monkeypatch.setattr(fitting, "MIN_TILE_PX", WIDTH * HEIGHT // 2)
    simulated_gpu.reset(memory=standin.SCRATCH_BYTES)
    frames = [noise(0, WIDTH, HEIGHT)]
    if engine == "tensorrt":
        with pytest.raises(OutOfMemoryError, match=r"not enough memory for one picture in flight.*smaller picture"):
            run(stage_for(card), frames)
        assert caplog.text.count("are tried") == 1, "half of that would be less than MIN_TILE_PX"
        return
    stage = stage_for(card, engine)
    check(run(stage, frames), frames, card)
    assert stage.engine_name == "openvino"
    assert "tensorrt in f32 is passed over: " in caplog.text


# --- a lost device


@pytest.mark.parametrize("call", ["cuEventSynchronize", "cuGraphLaunch", "cuEventRecord"])
def test_a_lost_device_costs_no_frame(
    card: ModelCard,
    simulated_gpu: SimulatedGpu,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    frames = [noise(number) for number in range(FRAMES)]
    stage, results = stage_for(card), list[Frame]()
    stage.open(frames[0].format)
    for frame in frames:
        if frame.index == 3:
            simulated_gpu.fail(call, ILLEGAL_ADDRESS)
        results += stage.process(frame)
    results += stage.flush()
    stage.close()
    simulated_gpu.violations()
    simulated_gpu.reset()
    assert (stage.engine_name, stage.counts) == ("openvino", {"engines failed": 1})
    check(results, frames, card)


def test_a_live_job_goes_over_to_tiles_when_their_plan_is_built(
    card: ModelCard, real_child: None, gate: Gate, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan for whole frames is there, and the memory for them is not."""
    monkeypatch.setattr(fitting, "MIN_TILE_PX", 1)
    plans.build(card.name, f"{WIDTH}x{HEIGHT}", precision="f32", stabilise=False)
    simulated_gpu.fail("cuMemAlloc", OUT_OF_MEMORY)
    frames = [noise(number, WIDTH, HEIGHT) for number in range(FRAMES)]
    stage = EnhanceStage(card, precision="f32", level=0.3, noise=0.1, at_once=True)
    stage.open(frames[0].format)
    assert stage.engine_name == "openvino"
    results = list(stage.process(frames[0]))
    gate.end(stage)
    results += [result for frame in frames[1:] for result in stage.process(frame)] + list(stage.flush())
    assert (stage.engine_name, len(stage._runner.plan.tiles)) == ("tensorrt", 2)
    stage.close()
    assert stage.counts == {"engine swaps": 1}
    check(results, frames, card)


def test_an_engine_that_is_given_up_leaves_nothing_behind(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture looks: what the error's frames hold must be gone before the GPU's context."""
    monkeypatch.setattr(TensorRTEngine, "_capture", lambda self: None)
    frames = [noise(number) for number in range(FRAMES)]
    stage = stage_for(card)
    stage.open(frames[0].format)
    simulated_gpu.fail("cuMemcpyHtoDAsync", INVALID_VALUE, after=2)
    results = [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    assert (stage.engine_name, stage.counts) == ("tensorrt-rtx", {"engines failed": 1})
    stage.close()
    assert simulated_gpu.live() == NOTHING
    assert simulated_gpu.violations() == []
    check(results, frames, card)


# --- Ctrl-C


@pytest.mark.parametrize("engine", ["tensorrt", "auto"])
def test_an_interrupted_stage_does_not_wait_for_a_plan(
    card: ModelCard, simulated_gpu: SimulatedGpu, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    stage = stage_for(card, engine)
    stage.interrupt()
    with pytest.raises(Cancelled):
        stage.open(noise(0).format)
    stage.close()
    assert not PlanCache().entries()
    assert "passed over" not in caplog.text
    check(run(stage, [noise(0)]), [noise(0)], card)


def test_an_interrupt_later_on_costs_no_frame(
    card: ModelCard, simulated_gpu: SimulatedGpu, capfd: pytest.CaptureFixture[str]
) -> None:
    """The engine fails while the last frames leave, and what would take its place has to be built."""
    stage, frames = stage_for(card, precision="auto"), [noise(number) for number in range(3)]
    stage.open(frames[0].format)
    results = [result for frame in frames for result in stage.process(frame)]
    stage.interrupt()
    simulated_gpu.fail("cuEventSynchronize", ILLEGAL_ADDRESS)
    results += stage.flush()
    stage.close()
    simulated_gpu.violations()
    simulated_gpu.reset()
    assert [frame.index for frame in results] == [0, 1, 2]
    assert stage.engine_name == "openvino"


def test_control_c_ends_a_build_that_the_job_waits_for(
    simulated_gpu: SimulatedGpu, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    driver = str(request.config.cache.mkdir("simulated-gpu"))
    output = tmp_path / "out" / "out.mp4"
    output.parent.mkdir()
    command = ["enhance", "test:64x48@25,100", str(output), "--engine", "tensorrt", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.interrupted", driver, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    with process:
        assert process.stderr is not None
        assert any(line == "building\n" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert json.loads(told)["interrupted"]
    assert "Traceback" not in errors
    assert not list(output.parent.iterdir())
    assert {path.suffix for path in (tmp_path / "cache" / "streamer-enhancer").rglob("*.*")} <= {".lock", ".side"}
