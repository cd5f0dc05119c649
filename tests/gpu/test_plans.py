"""`streamer engines build`, `list` and `clear` on the simulated GPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from engines import EngineError, PlanCache
from streamer import plans
from streamer.cli import app
from streamer.errors import UsageError
from tests.gpu import standin
from tests.test_cli import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gpu.device import SimulatedGpu

MODEL = "upscale-x2-nano"


def test_a_plan_is_built_listed_and_cleared(simulated_gpu: SimulatedGpu) -> None:
    assert plans.build(MODEL, "64x48") == f"tensorrt is ready for {MODEL} at 64x48"
    assert f"{MODEL}.onnx for 64x48" in plans.table()
    assert "Simulated GPU" in plans.table()
    assert "1 plans" in plans.table()
    assert plans.clear().startswith("freed ")
    assert "no plans are cached" in plans.table()


def test_a_job_uses_the_plan_that_was_built(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    import streamer

    plans.build(MODEL, "64x48")
    monkeypatch.setattr(standin.Builder, "build_serialized_network", None)
    summary = streamer.enhance("test:64x48@25,5", ["null:"], model=MODEL, engine="tensorrt")
    assert (summary.frames, summary.engine, summary.precision) == (5, "tensorrt", "f16")


@pytest.mark.slow
def test_the_command_takes_what_a_plan_depends_on(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "streamer.cli.running.set_up_logging", lambda level: None
    )  # its handler would outlive the runner

    def build(*arguments: str) -> str:
        outcome = CliRunner().invoke(app, ["engines", "build", MODEL, "--size", "64x48", *arguments])
        assert outcome.exit_code == 0, outcome.output
        return outcome.stdout

    assert build("--pix-fmt", "yuv420p10le", "--siting", "topleft") == f"tensorrt is ready for {MODEL} at 64x48\n"
    assert "at 32x24 to 64x48, best at 64x48" in build("--min", "32x24", "--opt-level", "5")
    for islands in ("0", "1", "2"):
        build("--islands", islands, "--max", "80x60")
    build("--precision", "f32", "--max", "80x60")  # the same as 2
    build("--no-stabilise")
    assert len(PlanCache().entries()) == 6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pix_fmt": "rgb24"}, "no plan is for rgb24 with chroma at left: use a planar format"),
        ({"siting": "right"}, "no plan is for yuv420p with chroma at right: use .*topleft"),
    ],
)
def test_other_pixels_are_told(given: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        plans.build(MODEL, "64x48", **given)  # type: ignore[arg-type]


def test_levels_of_islands_that_do_not_exist(simulated_gpu: SimulatedGpu) -> None:
    with pytest.raises(EngineError, match="no level 3 of float32 islands: use 0 to 2, or names"):
        plans.build(MODEL, "64x48", islands=3)
    with pytest.raises(EngineError, match="asked for float32 islands in f32: they are for f16 only"):
        plans.build(MODEL, "64x48", precision="f32", islands=1)


def test_an_interrupt_cancels_the_build(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def interrupted(self: object) -> None:
        asked.wait(10)
        raise KeyboardInterrupt

    def step(builder: object, network: object, config: standin.IBuilderConfig) -> None:
        monitor = config.progress_monitor
        assert monitor is not None
        monitor.phase_start("Building", None, 1 << 30)
        asked.set()
        done = 0
        while monitor.step_complete("Building", done):
            done += 1

    monkeypatch.setattr(standin.Builder, "build_serialized_network", step)
    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plans.build(MODEL, "64x48")
    assert PlanCache().entries() == []


@pytest.mark.parametrize("size", ["720p", "1280", "0x720", "1280x00", "-1x5"])
def test_a_size_is_two_numbers(size: str) -> None:
    with pytest.raises(UsageError, match="is not a size: write it as 1280x720"):
        plans.build(MODEL, size)


def test_other_bad_requests() -> None:
    with pytest.raises(UsageError, match="no optimisation level 9: use 0"):
        plans.build(MODEL, "64x48", level=9)
    with pytest.raises(UsageError, match="no engine 'cuda'"):
        plans.build(MODEL, "64x48", engine="cuda")
    with pytest.raises(EngineError, match="openvino engine builds no plans: use tensorrt or tensorrt-rtx"):
        plans.build(MODEL, "64x48", engine="openvino")


def test_the_commands_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run("engines", "build", MODEL, "--size", "64x48")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no engine that builds plans can run here: tensorrt: " in done.stderr
    assert run("engines", "clear").stdout.startswith("freed 0.0 MiB")
