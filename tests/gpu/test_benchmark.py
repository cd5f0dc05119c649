"""`python -m benchmarks gpu` on the simulated GPU: that it runs and divides rightly. Its figures mean nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from benchmarks import gpu
from benchmarks.__main__ import app
from benchmarks.networks import frame_ms
from engines import Engine, EngineError, TensorRTEngine
from onnx_models.cards import load_card

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu


@pytest.mark.slow
def test_every_case_and_the_job_are_timed(simulated_gpu: SimulatedGpu) -> None:
    report = gpu.run("upscale-x2-nano", 8, 2, sizes=((64, 48), (96, 48)))
    assert report.findings["sizes"].keys() == {"64x48", "96x48"}
    for one in report.findings["sizes"].values():
        assert one["ms"].keys() == gpu.CASES.keys()
        assert one["share"].keys() == gpu.CASES.keys() - {"whole"}
        assert all(ms > 0 for ms in one["ms"].values())
        assert len(one["rounds"]) == 2
    assert all(fps > 0 for fps in report.findings["jobs"].values())
    assert "copies alone" in str(report)
    assert "Simulated GPU" in str(report)


@pytest.mark.parametrize(
    ("case", "wanted"),
    [("whole", (1, 1, 1)), ("copies", (1, 0, 1)), ("inference", (0, 1, 0)), ("stabilised", (1, 1, 1))],
)
def test_a_floor_leaves_out_what_it_says(
    simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, case: str, wanted: tuple[int, int, int]
) -> None:
    frames, warm_up = 8, 3
    counted = []

    def counting(engine: Engine, frames: int) -> float:
        simulated_gpu.clear_counts()
        found = frame_ms(engine, frames)
        counted.append(simulated_gpu.counts())
        return found

    monkeypatch.setattr(gpu, "frame_ms", counting)
    card = load_card("upscale-x2-nano")
    monkeypatch.setattr(TensorRTEngine, "_capture", lambda self: None)  # launches of graphs look all the same
    gpu._case_ms(card, (64, 48), "tensorrt", 0, frames, case)
    (counts,) = counted
    calls = ("cuMemcpyHtoDAsync", "a kernel launch", "cuMemcpyDtoHAsync")
    assert tuple(counts.get(call, 0) / (frames + warm_up) for call in calls) == wanted


@pytest.mark.slow
def test_without_a_gpu_it_says_why() -> None:
    outcome = CliRunner().invoke(app, ["gpu"])
    assert outcome.exit_code == 1
    assert "error: the benchmark needs an NVIDIA GPU, and none can be used here: tensorrt: " in outcome.output
    with pytest.raises(EngineError, match="there is no GPU engine 'cuda'"):
        gpu.gpu_engine("cuda")
