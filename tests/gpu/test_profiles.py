"""Plans for a range of sizes: built once, found by every job inside of it, and refused outside."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines import EngineError, EngineRequest, PlanCache, TensorRTEngine, build_engine, open_engine, plan_is_ready
from engines.tensorrt import BuildSettings, Profile
from engines.tensorrt.key import PlanKey
from streamer import plans
from streamer.errors import UsageError
from tests.gpu import standin
from tests.pixel_models import assert_close, expected, picture, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gpu.device import SimulatedGpu

WIDTH, HEIGHT = 26, 18
SMALLEST, LARGEST = (16, 12), (40, 30)
MODEL = "upscale-x2-nano"


@pytest.fixture(name="request_")
def _request(simulated_gpu: SimulatedGpu) -> EngineRequest:
    return EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="tensorrt")


def luma(width: int, height: int) -> dict[str, tuple[int, ...]]:
    return {"luma": (1, 1, height, width)}


def check(request: EngineRequest) -> None:
    with open_engine(request, slots=2) as engine:
        pixels = picture(1, request.height, request.width)
        found = engine.collect(engine.submit({"luma": pixels, "strength": np.ones(1, np.float32)}))["enhanced"]
        assert_close(found, expected(pixels, 1.0))


def forbid_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.Builder, "build_serialized_network", None)


def test_every_size_in_the_range_runs_on_one_plan(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build_engine(request_, smallest=SMALLEST, largest=LARGEST)
    forbid_builds(monkeypatch)
    with caplog.at_level(logging.INFO):
        for size in (SMALLEST, (WIDTH, HEIGHT), (40, 12), LARGEST):
            assert plan_is_ready(request_.resized(size))
            check(request_.resized(size))
    assert "runs on the plan for luma [1, 1, 12, 16] to luma [1, 1, 30, 40]" in caplog.text
    assert not plan_is_ready(request_.resized((42, 30)))


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("smallest", [None, SMALLEST])
def test_graphs_run_for_one_size_and_for_a_range(
    request_: EngineRequest, simulated_gpu: SimulatedGpu, engine: str, smallest: tuple[int, int] | None
) -> None:
    request = replace(request_, engine=engine)
    build_engine(request, smallest=smallest)
    simulated_gpu.clear_counts()
    check(request)
    assert simulated_gpu.counts().get("cuGraphLaunch", 0) > 0


def test_outside_of_the_range_a_plan_of_its_own_is_built(request_: EngineRequest) -> None:
    build_engine(request_, smallest=SMALLEST)
    outside = request_.resized((28, 18))
    check(outside)
    assert len(PlanCache().entries()) == 2
    assert plan_is_ready(outside)


def test_a_build_that_is_asked_for_is_done_although_a_range_would_serve(request_: EngineRequest) -> None:
    for given in ({"smallest": SMALLEST, "largest": LARGEST}, {"smallest": SMALLEST}, {}, {"level": 5}, {}):
        build_engine(request_, **given)
    assert len(PlanCache().entries()) == 4


def test_a_damaged_range_is_built_again_for_the_size_asked_for(
    request_: EngineRequest, caplog: pytest.LogCaptureFixture
) -> None:
    build_engine(request_, largest=LARGEST)
    (path,) = PlanCache().folder.glob("*.plan")
    path.write_bytes(path.read_bytes()[:-1])
    check(request_)
    assert "it is damaged" in caplog.text
    assert len(PlanCache().entries()) == 1


def key(profile: Profile, level: int | None = None) -> dict[str, str]:
    settings = f'{{"level": {"null" if level is None else level}, "capability": null}}'
    return {"model": "m", "profile": profile.text, "settings": settings, "gpu": "g"}


def substitutes(wanted: dict[str, str], others: list[dict[str, str]]) -> list[dict[str, str]]:
    return [found.parts for found in PlanKey(wanted).substitutes(map(PlanKey, others))]


def test_the_narrowest_range_comes_first_then_the_highest_level() -> None:
    fixed, wide = Profile.fixed(luma(8, 8)), Profile(luma(4, 4), luma(8, 8), luma(64, 64))
    narrow = Profile(luma(4, 4), luma(8, 8), luma(16, 16))
    others = [key(wide), key(narrow, 1), key(narrow, 5), key(fixed, 2)]
    assert substitutes(key(fixed), others) == [others[3], others[2], others[1], others[0]]
    assert substitutes(key(fixed, 5), others) == [others[2]], "a level that was asked for"
    other_gpu = '{"level": null, "capability": "8.6"}'
    foreign = [key(narrow) | {"model": "n"}, key(narrow) | {"gpu": "h"}, key(narrow) | {"settings": other_gpu}]
    broken = [
        *(key(narrow) | {"profile": text} for text in ("?", "{}", "[]")),
        {"model": "m"},
        key(narrow) | {"settings": "[]"},
    ]
    elsewhere = [key(Profile(luma(9, 9), luma(9, 9), luma(64, 64))), key(Profile.fixed({"image": (1, 1, 8, 8)}))]
    assert substitutes(key(fixed), [key(fixed), *foreign, *broken, *elsewhere]) == []


def test_shapes_outside_of_the_range_are_told(simulated_gpu: SimulatedGpu) -> None:
    profile = Profile(luma(16, 12), luma(26, 18), luma(40, 30))
    assert Profile.parse(profile.text) == profile
    with pytest.raises(EngineError, match=r"what the plan is to be built for, luma \[1, 1, 12, 16\] to luma"):
        TensorRTEngine(tiny_model(), luma(42, 30), profile=profile)
    with pytest.raises(EngineError, match=r"cannot be best at luma \[1, 1, 18, 26\]: use a size in between"):
        Profile(luma(30, 12), luma(26, 18), luma(40, 30))


def test_a_plan_that_does_not_take_the_shape_says_so(
    simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrower = [(1, 1, 2, 2)] * 3
    monkeypatch.setattr(standin.ICudaEngine, "get_tensor_profile_shape", lambda self, name, profile_index: narrower)
    with pytest.raises(EngineError, match=r"TensorRT does not take luma uint8\[1, 1, 18, 26\]: it is outside of what"):
        TensorRTEngine(tiny_model(), luma(26, 18)).open()


def test_a_plan_that_gives_another_shape_is_an_error(
    simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standin.IExecutionContext, "get_tensor_shape", lambda self, name: (1, 1, 2, 2))
    with pytest.raises(EngineError, match=r"gives enhanced \[1, 1, 2, 2\], where enhanced uint8\[1, 1, 36, 52\]"):
        TensorRTEngine(tiny_model(), luma(26, 18)).open()


def test_a_range_that_tensorrt_refuses(request_: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.IBuilderConfig, "add_optimization_profile", lambda self, profile: -1)
    with pytest.raises(EngineError, match="TensorRT does not take the range luma"):
        build_engine(request_, largest=LARGEST)


def test_float32_is_not_multiplied_in_fewer_digits(request_: EngineRequest) -> None:
    build_engine(replace(request_, precision="f32"))
    (path,) = PlanCache().folder.glob("*.plan")
    assert b'"tf32": false' in path.read_bytes()


@pytest.mark.slow
def test_the_command_builds_a_range_for_jobs(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    import streamer

    told = plans.build(MODEL, "64x48", smallest="33x25", largest="128x96")
    assert told == f"tensorrt is ready for {MODEL} at 33x25 to 128x96, best at 64x48"
    assert f"{MODEL}.onnx for 36x28 to 128x96 " in plans.table()
    forbid_builds(monkeypatch)
    for size in ("33x25", "80x50"):
        summary = streamer.enhance(f"test:{size}@25,2", ["null:"], model=MODEL, engine="tensorrt")
        assert (summary.frames, summary.engine) == (2, "tensorrt")


@pytest.mark.parametrize("ends", [("65x48", None), (None, "64x47"), ("32x50", "99x99")])
def test_the_size_is_between_the_others(ends: tuple[str | None, str | None]) -> None:
    with pytest.raises(UsageError, match=r"--size 64x48 is not between .*: widen the range"):
        plans.build(MODEL, "64x48", smallest=ends[0], largest=ends[1])


def test_settings_of_another_gpu_are_no_substitute(simulated_gpu: SimulatedGpu, tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans")
    for settings in (BuildSettings(workspace_bytes=1 << 20), BuildSettings()):
        with TensorRTEngine(tiny_model(), luma(26, 18), slots=1, cache=cache, settings=settings):
            pass
    assert len(cache.entries()) == 2
