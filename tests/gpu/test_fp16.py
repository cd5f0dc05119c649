"""The conversion to float16: what is converted, what stays, what overflows, and that the picture stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from engines import EngineError, OnnxRuntimeEngine, PlanCache, by_contract, for_bits, read_foreign
from engines.tensorrt import half_precision, overflowing, to_fp16
from onnx_models.cards import list_cards
from tests.foreign import Foreign
from tests.pixel_models import Array, assert_close, expected, picture, tiny_proto

if TYPE_CHECKING:
    from pathlib import Path

HEIGHT, WIDTH = 18, 26
MODELS = [card.path for card in list_cards()]
ONE = np.ones(1, np.float32)


def enhanced(model: bytes | Path, luma: Array, strength: float = 1.0) -> Array:
    with OnnxRuntimeEngine(model, {"luma": luma.shape}, slots=1) as engine:
        feeds = {spec.name: np.full(1, 0.5, np.float32) for spec in engine.inputs}
        feeds |= {"luma": luma, "strength": strength * ONE}
        return engine.collect(engine.submit(feeds))["enhanced"].copy()


def types(model: bytes) -> dict[str, int]:
    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
    return {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}


@pytest.mark.parametrize("bits", [8, 10])
def test_the_picture_is_the_same(bits: int) -> None:
    luma = picture(3, HEIGHT, WIDTH, bits)
    converted = to_fp16(for_bits(tiny_proto().SerializeToString(), bits))
    fed = luma if bits == 8 else luma.astype(np.float32)
    assert_close(enhanced(converted, fed), expected(luma, 1.0, bits))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_shipped_model_converts(path: Path) -> None:
    converted = to_fp16(path)
    graph = onnx.load_model_from_string(converted).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    halves = [node for node in convolutions if kinds[node.input[1]] == TensorProto.FLOAT16]
    others = {node.name for node in convolutions if node not in halves}
    assert halves
    interpolation = {node.name for node in convolutions if node.name == "phases"}  # same-size models have none
    assert others == interpolation, "the interpolation works on code values"
    luma = picture(5, 48, 64)
    assert np.array_equal(enhanced(converted, luma, 0.0), enhanced(path, luma, 0.0)), "strength 0 is exact"
    difference = np.abs(enhanced(converted, luma).astype(int) - enhanced(path, luma).astype(int))
    assert difference.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_no_shipped_model_overflows(path: Path) -> None:
    assert overflowing(path.read_bytes()) == {}


def overflowing_model() -> bytes:
    """Its convolution is 300,000 times too strong, and a multiplication behind it takes that back."""
    proto = tiny_proto()
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name in ("kernel", "bias"):
        scaled = numpy_helper.to_array(weights[name]) * np.float32(3e5)
        weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
    place = next(index for index, node in enumerate(proto.graph.node) if node.op_type == "DepthToSpace")
    proto.graph.node[place].output[0] = "strong"
    proto.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["strong", "weaken"], ["detail"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1 / 3e5], np.float32), "weaken"))
    content: bytes = proto.SerializeToString()
    return content


def test_what_overflows_becomes_one_island_of_float32() -> None:
    model = overflowing_model()
    assert set(overflowing(model)) == {"phases", "strong"}
    found = half_precision(model)
    kinds = types(found)
    assert kinds["phases"] == kinds["strong"] == TensorProto.FLOAT
    assert not {"phases_f16", "strong_f16"} & set(kinds), "no float16 in between"
    assert "residual_f16" in kinds, "behind it, float16 again"
    luma = picture(1, HEIGHT, WIDTH)
    assert_close(enhanced(found, luma), expected(luma, 1.0))


def test_what_is_not_a_number_overflows_too() -> None:
    proto = onnx.load_model_from_string(overflowing_model())
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, value in (("kernel", np.full((4, 1, 3, 3), 3e38)), ("weaken", np.zeros(1))):  # infinity times nothing
        weights[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    assert {"phases", "strong", "detail", "residual"} <= set(overflowing(proto.SerializeToString()))


def halves(model: bytes) -> int:
    tensors = onnx.load_model_from_string(model).graph.initializer
    return sum(tensor.data_type == TensorProto.FLOAT16 for tensor in tensors if len(tensor.dims) == 4)


@pytest.mark.parametrize("name", ["upscale-x2-nano", "restore-x1-nano"])
def test_more_islands_keep_more_in_float32(name: str, tmp_path: Path) -> None:
    model, cache = next(path for path in MODELS if path.stem == name).read_bytes(), PlanCache(tmp_path / "plans")
    few, many = (half_precision(model, cache, islands=level) for level in (0, 1))
    assert halves(few) - halves(many) >= 2, "the first and the last layer"
    assert halves(many) > 0
    luma = picture(5, 48, 64)
    for strength in (0.0, 1.0):
        difference = np.abs(enhanced(many, luma, strength).astype(int) - enhanced(model, luma, strength))
        assert difference.max() <= strength


def test_what_comes_near_stays_float32_at_the_next_level() -> None:
    proto = onnx.load_model_from_string(overflowing_model())
    for tensor in proto.graph.initializer:
        if tensor.name in ("kernel", "bias"):
            weaker = numpy_helper.to_array(tensor) / np.float32(1e2)  # a few thousand times too strong is left
            tensor.CopyFrom(numpy_helper.from_array(weaker, tensor.name))
    model = proto.SerializeToString()
    assert overflowing(model) == {}
    assert "strong_f16" in types(half_precision(model))
    assert "strong_f16" not in types(half_precision(model, islands=1))


def test_islands_may_be_named() -> None:
    model = overflowing_model()
    assert "residual" in types(half_precision(model, islands=("residual",)))
    with pytest.raises(EngineError, match=r"cannot keep nothing in float32: no such tensors .*they are .*residual"):
        half_precision(model, islands=("nothing",))


def test_frames_of_ones_own_decide() -> None:
    dark = np.zeros((1, 1, HEIGHT, WIDTH), np.uint8)
    model = overflowing_model()
    assert overflowing(model, [dark]) == {}
    assert set(overflowing(model, [dark, dark + 255])) == {"phases", "strong"}


def test_a_weight_that_is_too_large_stays_float32() -> None:
    proto = tiny_proto()
    kernel = next(tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(1e6), "kernel"))
    assert "phases" in types(to_fp16(proto.SerializeToString()))


def test_the_answer_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PlanCache(tmp_path / "plans")
    first = half_precision(overflowing_model(), cache)
    monkeypatch.setattr("engines.tensorrt.overflow._peaks", None)
    assert half_precision(overflowing_model(), cache) == first


@pytest.mark.parametrize("foreign", [Foreign(), Foreign(half=True), Foreign(white=255.0, opset=20, block=64, scale=4)])
def test_networks_of_others_convert(foreign: Foreign, tmp_path: Path) -> None:
    model = by_contract(read_foreign(foreign.save(tmp_path / "net.onnx")), foreign.scale, (0.0, foreign.white))
    luma = picture(6, 128, 64)
    difference = np.abs(enhanced(half_precision(model), luma).astype(int) - enhanced(model, luma).astype(int))
    assert difference.max() <= 1
    assert np.array_equal(enhanced(half_precision(model), luma, 0.0), enhanced(model, luma, 0.0)), "strength 0 is exact"
