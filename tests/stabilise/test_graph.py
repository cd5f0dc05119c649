"""The ONNX graph of the stabiliser computes what the code for the CPU computes, on every engine of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines import OnnxRuntimeEngine, OpenVINOEngine
from onnx_models.stabiliser import STATE, build_stabiliser, merge_stabiliser, state_shapes
from tests.pixel_models import tiny_model, tiny_proto
from tests.stabilise.scenes import popping, stage_outputs, textured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines import Engine
    from tests.stabilise.scenes import Luma

HEIGHT, WIDTH = 96, 128


def shapes_of(scale: int) -> dict[str, tuple[int, ...]]:
    return {**state_shapes(scale, HEIGHT, WIDTH), "luma": (1, 1, HEIGHT, WIDTH)}


def graph_outputs(kind: type[Any], scale: int, sources: Sequence[Luma], enhanced: Sequence[Luma]) -> list[Luma]:
    """Stabilised frames, with the state handed from one inference to the next."""
    shapes = shapes_of(scale)
    shapes["enhanced"] = shapes["picture"]
    model = build_stabiliser(scale).SerializeToString()
    state = {name: np.zeros(shapes[name], np.float32) for name in STATE}
    found = []
    engine: Engine
    with kind(model, shapes, slots=1, threads=1) as engine:
        for number, (source, frame) in enumerate(zip(sources, enhanced, strict=True)):
            scalars = {"strength": 1.0, "elapsed": 1.0, "first": float(number == 0), "learn": 1.0}
            feeds = {name: np.array([value], np.float32) for name, value in scalars.items()}
            planes = {"enhanced": frame[None, None], "luma": source[None, None]}
            results = engine.collect(engine.submit({**feeds, **planes, **state}))
            state = {name: results[f"{name}_next"].copy() for name in STATE}
            found.append(results["stabilised"][0, 0].copy())
    return found


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (OnnxRuntimeEngine, 1),
        (OnnxRuntimeEngine, 2),
        (OpenVINOEngine, 1),
        pytest.param(OpenVINOEngine, 2, marks=pytest.mark.slow),
    ],
)
def test_graph_and_cpu_code_agree(kind: type[Any], scale: int) -> None:
    if kind is OnnxRuntimeEngine:
        pytest.importorskip("onnxruntime")
    sources = popping(textured(HEIGHT, WIDTH), frames=14, pop_at=9, noise=0.7, moving=True)
    enhanced = [np.ascontiguousarray(source.repeat(scale, 0).repeat(scale, 1)) for source in sources]
    ours, graphs = stage_outputs(sources, enhanced), graph_outputs(kind, scale, sources, enhanced)
    assert any((new != old).any() for new, old in zip(ours, enhanced, strict=True))
    for number, (our, theirs) in enumerate(zip(ours, graphs, strict=True)):
        apart = np.abs(our.astype(int) - theirs)
        # Averages of two codes end in a half, and round either way; and a cell may lie so near to a threshold that the
        # order of additions decides.
        assert np.mean(apart > 1) < 0.01, number
        assert apart.mean() < 0.2, number
        assert abs(float(np.mean(our.astype(float) - theirs))) < 0.15, number


@pytest.mark.parametrize("kind", [pytest.param(OpenVINOEngine, marks=pytest.mark.slow), OnnxRuntimeEngine])
def test_merged_behind_a_network_it_computes_the_same(kind: type[Any]) -> None:
    if kind is OnnxRuntimeEngine:
        pytest.importorskip("onnxruntime")
    scale, shapes = 2, shapes_of(2)
    sources = popping(textured(HEIGHT, WIDTH), frames=5, pop_at=4, noise=2.0, moving=True)
    strength = np.array([0.5], np.float32)
    engine: Engine
    with kind(tiny_model(), {"luma": shapes["luma"]}, slots=1, threads=1) as engine:
        feeds: list[dict[str, Any]] = [{"luma": source[None, None], "strength": strength} for source in sources]
        enhanced = [engine.collect(engine.submit(feed))["enhanced"][0, 0].copy() for feed in feeds]
    wanted = graph_outputs(kind, scale, sources, enhanced)
    merged = merge_stabiliser(tiny_proto(), scale).SerializeToString()
    state = {name: np.zeros(shapes[name], np.float32) for name in STATE}
    with kind(merged, shapes, slots=1, threads=1) as engine:
        for number, source in enumerate(sources):
            scalars = {"stabilise_strength": 1.0, "elapsed": 1.0, "first": float(number == 0), "learn": 1.0}
            controls = {name: np.array([value], np.float32) for name, value in scalars.items()}
            frame: dict[str, NDArray[Any]] = {"luma": source[None, None], "strength": strength, **controls, **state}
            results = engine.collect(engine.submit(frame))
            state = {name: results[f"{name}_next"].copy() for name in STATE}
            np.testing.assert_array_equal(results["stabilised"][0, 0], wanted[number])


def test_bad_sizes_and_scales_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        state_shapes(1, 100, 128)
    with pytest.raises(ValueError, match="scale 0"):
        build_stabiliser(0)
