"""Chroma on the GPU beside luma: what a frame costs, in which order, and that it stays float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engines import EngineRequest, PlanBuild, TensorRTEngine, build_engine, open_engine, plan_is_ready
from engines.chroma import with_chroma
from engines.tensorrt import half_precision
from streamer.color import ChromaScaler
from streamer.frame import ColorSpec, PixelLayout, Plane
from tests.gpu.device import EAGER, LAZY, SEEDS
from tests.pixel_models import SCALE, Array, assert_close, expected, picture, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gpu.device import SimulatedGpu

HEIGHT, WIDTH, FRAMES = 18, 26, 5
LAYOUT = PixelLayout(8, 3, 1, 1)
SCALER = ChromaScaler(LAYOUT, ColorSpec(), SCALE)
ALIGNMENT, SCALAR_BYTES = 256, 4


def request(bits: int = 8, precision: str = "auto") -> EngineRequest:
    return EngineRequest(
        tiny_model(), WIDTH, HEIGHT, bits=bits, engine="tensorrt", precision=precision, chroma=SCALER.filter
    )


def feeds(seed: int) -> dict[str, Array]:
    u, v = (picture(seed + place, HEIGHT // 2, WIDTH // 2) for place in (100, 200))
    return {"luma": picture(seed, HEIGHT, WIDTH), "strength": np.ones(1, np.float32), "u": u, "v": v}


def check(found: dict[str, Array], seed: int) -> None:
    given = feeds(seed)
    assert_close(found["enhanced"], expected(given["luma"], 1.0))
    for name in ("u", "v"):
        assert np.array_equal(found[f"{name}_enhanced"][0, 0], resampled(given[name][0, 0]))


def resampled(plane: Plane) -> Plane:
    into = np.empty((SCALE * plane.shape[0], SCALE * plane.shape[1]), plane.dtype)
    SCALER.resample(plane, into)
    return into


@pytest.mark.parametrize("order", [LAZY, EAGER, *SEEDS])
def test_planes_are_enlarged_with_their_luma(simulated_gpu: SimulatedGpu, order: int) -> None:
    simulated_gpu.set_order(order)
    with open_engine(request()) as engine:
        flying = [engine.submit(feeds(seed)) for seed in range(engine.slots)]
        for seed in range(FRAMES):
            check(engine.collect(flying.pop(0)), seed)
            flying.append(engine.submit(feeds(seed + len(flying) + 1)))


@pytest.mark.parametrize("graphs", [True, False])
def test_a_frame_with_chroma_moves_every_byte_once(simulated_gpu: SimulatedGpu, graphs: bool) -> None:
    def aligned(size: int) -> int:
        return -(-size // ALIGNMENT) * ALIGNMENT

    luma, chroma = HEIGHT * WIDTH, HEIGHT * WIDTH // 4
    model = with_chroma(half_precision(tiny_model()), SCALER.filter)
    with TensorRTEngine(model, request().shapes(), graphs=graphs) as engine:
        simulated_gpu.clear_counts()
        for seed in range(FRAMES):
            engine.collect(engine.submit(feeds(seed)))
        counts = {name: count / FRAMES for name, count in simulated_gpu.counts().items()}
    if graphs:
        assert counts == {"cuGraphLaunch": 1, "cuEventRecord": 1, "cuEventSynchronize": 1}
        return
    assert counts["bytes up"] == aligned(luma) + 2 * aligned(chroma) + SCALAR_BYTES
    assert counts["bytes down"] == aligned(4 * luma) + aligned(4 * chroma) + 4 * chroma
    assert (counts["cuMemcpyHtoDAsync"], counts["cuMemcpyDtoHAsync"], counts["cuEventSynchronize"]) == (1, 1, 1)
    assert not {"cuMemAlloc", "cuMemHostAlloc", "cuMemHostRegister"} & counts.keys()


def test_the_filter_is_never_float16(simulated_gpu: SimulatedGpu) -> None:
    graph = onnx.load_model_from_string(with_chroma(half_precision(tiny_model()), SCALER.filter)).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    taps = [name for name in kinds if name.startswith("chroma_") and name.endswith("_taps")]
    assert {kinds[name] for name in taps} == {TensorProto.FLOAT}
    assert len(taps) == 2
    assert TensorProto.FLOAT16 in kinds.values()


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_deeper_pixels(simulated_gpu: SimulatedGpu, precision: str) -> None:
    scaler = ChromaScaler(PixelLayout(10, 3, 1, 1), ColorSpec(), SCALE)
    u, v = (picture(seed, HEIGHT // 2, WIDTH // 2, 10) for seed in (1, 2))
    given = {"luma": picture(0, HEIGHT, WIDTH, 10), "strength": np.ones(1, np.float32), "u": u, "v": v}
    with open_engine(request(10, precision)) as engine:
        found = engine.collect(engine.submit(given))
        for name, plane in (("u", u), ("v", v)):
            into = np.empty((HEIGHT, WIDTH), np.uint16)
            scaler.resample(plane[0, 0], into)
            assert np.array_equal(found[f"{name}_enhanced"][0, 0], into)


def test_a_range_of_sizes_has_chroma_too(simulated_gpu: SimulatedGpu) -> None:
    build_engine(request(), smallest=(16, 12), largest=(41, 31))
    for size in ((41, 31), (17, 13)):
        one = request().resized(size)
        assert plan_is_ready(one)
        width, height = size
        with open_engine(one) as engine:
            u = picture(1, -(-height // 2), -(-width // 2))
            given = {"luma": picture(0, height, width), "strength": np.ones(1, np.float32), "u": u, "v": u}
            assert np.array_equal(engine.collect(engine.submit(given))["u_enhanced"][0, 0], resampled(u[0, 0]))


def test_other_sitings_are_other_plans(simulated_gpu: SimulatedGpu) -> None:
    open_engine(request()).close()
    centred = ChromaScaler(LAYOUT, ColorSpec(chroma_location="center"), SCALE).filter
    assert not plan_is_ready(EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="tensorrt", chroma=centred))
    assert plan_is_ready(request())


def test_another_process_understands_the_request(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    for islands in (1, ("a", "b")):
        sent = EngineRequest(path, WIDTH, HEIGHT, 10, "tensorrt", 1, "f16", islands, SCALER.filter)
        assert EngineRequest.from_json(sent.to_json()) == sent
    for sent in (EngineRequest(path, 1, 2), EngineRequest(path, 1, 2, follower=bytes(range(256)))):
        assert EngineRequest.from_json(sent.to_json()) == sent
    assert PlanBuild(sent).ended is False
