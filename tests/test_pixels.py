"""The pixel contract: which models keep it, and their variants for deeper pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import EngineError, check_contract, for_bits, scale_of
from tests.pixel_models import SCALE, tiny_model, tiny_proto

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Proto = onnx.ModelProto


def weight(proto: Proto, name: str) -> TensorProto:
    found: TensorProto = next(t for t in proto.graph.initializer if t.name == name)
    return found


def node(proto: Proto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(n for n in proto.graph.node if name in (n.name, n.op_type))
    return found


def retarget(proto: Proto, name: str, dtype: int) -> None:
    node(proto, name).attribute[0].i = dtype


def rename_weight(proto: Proto, old: str, new: str) -> None:
    weight(proto, old).name = new
    for entry in proto.graph.node:
        entry.input[:] = [new if name == old else name for name in entry.input]


def rename_input(proto: Proto, old: str, new: str) -> None:
    next(value for value in proto.graph.input if value.name == old).name = new
    for entry in proto.graph.node:
        entry.input[:] = [new if name == old else name for name in entry.input]


def rename_output(proto: Proto) -> None:
    proto.graph.output[0].name = "y"
    node(proto, "pixels_out").output[0] = "y"


def set_channels(proto: Proto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def fix_size(proto: Proto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 360


def float_input(proto: Proto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def skip_round(proto: Proto) -> None:
    node(proto, "Clip").input[0] = "scaled"


def clip_elsewhere(proto: Proto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(200, np.float32), "other"))
    node(proto, "Clip").input[2] = "other"


def unclipped_below(proto: Proto) -> None:
    weight(proto, "floor").CopyFrom(numpy_helper.from_array(np.array(-1, np.float32), "floor"))


def unit_of_one(proto: Proto) -> None:
    weight(proto, "unit").CopyFrom(numpy_helper.from_array(np.array(1, np.float32), "unit"))


def unit_inside(proto: Proto) -> None:
    node(proto, "Add").input[1] = "unit"


def undivided(proto: Proto) -> None:
    node(proto, "Div").input[:] = ["unit", "codes"]


def older_opset(proto: Proto) -> None:
    proto.opset_import[0].version = 16


def conditions(kind: int, shape: list[int]) -> Callable[[Proto], None]:
    def add(proto: Proto) -> None:
        proto.graph.input.extend(helper.make_tensor_value_info(name, kind, shape) for name in ("level", "noise"))

    return add


def level_alone(proto: Proto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("level", TensorProto.FLOAT, [1]))


def third_input(proto: Proto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("mood", TensorProto.FLOAT, [1]))


def second_output(proto: Proto) -> None:
    proto.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n"]))


BREACHES: list[tuple[Callable[[Proto], None], str]] = [
    (older_opset, "ai.onnx 17"),
    (lambda proto: rename_input(proto, "luma", "x"), r"inputs are \['strength', 'x'\]"),
    (lambda proto: rename_input(proto, "strength", "gain"), "inputs are"),
    (lambda proto: rename_input(proto, "strength", "level"), r"inputs are \['level', 'luma'\]"),
    (third_input, "inputs are .*'mood'"),
    (level_alone, r"inputs are \['level', 'luma', 'strength'\], not luma, strength and, .* level and noise"),
    (conditions(TensorProto.FLOAT, [2]), r"level is \[2\], not \[1\]"),
    (conditions(TensorProto.UINT8, [1]), "level is UINT8, not FLOAT"),
    (rename_output, r"outputs are \['y'\]"),
    (second_output, "outputs are"),
    (set_channels, r"\[1, 3, \?, \?\], not \[1, 1, \?, \?\]"),
    (fix_size, r"\[1, 1, 360, \?\]"),
    (float_input, "luma is FLOAT, not UINT8"),
    (lambda proto: rename_weight(proto, "unit", "u"), "no initializer unit"),
    (lambda proto: rename_weight(proto, "peak", "p"), "no initializer peak"),
    (unit_of_one, "unit is not one float32 of 255"),
    (lambda proto: setattr(node(proto, "pixels_in"), "name", "in"), "no node pixels_in"),
    (lambda proto: setattr(node(proto, "pixels_out"), "name", "out"), "no node pixels_out"),
    (lambda proto: retarget(proto, "pixels_out", TensorProto.INT8), "does not cast to UINT8"),
    (skip_round, "not Round and Clip"),
    (clip_elsewhere, "Clip is not between"),
    (unclipped_below, "Clip is not between"),
    (unit_inside, "unit is used by"),
    (undivided, "no Div by the initializer unit"),
]


@pytest.mark.parametrize(("breach", "told"), BREACHES)
def test_a_breach_is_named_with_its_fix(breach: Callable[[Proto], None], told: str) -> None:
    proto = tiny_proto()
    breach(proto)
    with pytest.raises(EngineError, match=rf"{told}.*export it again"):
        check_contract(proto.SerializeToString())


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_contract_holds_for_the_model_itself(conditioned: bool) -> None:
    check_contract(tiny_model(conditioned=conditioned))


@pytest.mark.parametrize("conditioned", [False, True])
def test_scale_is_read_from_the_graph(conditioned: bool) -> None:
    assert scale_of(tiny_model(conditioned=conditioned)) == SCALE


def test_a_scale_that_is_not_whole_is_refused() -> None:
    proto = tiny_proto()
    scales = numpy_helper.from_array(np.array([1, 1, 1.5, 1.5], np.float32), "scales")
    weight(proto, "scales").CopyFrom(scales)
    node(proto, "Add").input[1] = "strength"
    with pytest.raises(EngineError, match="not a whole multiple"):
        scale_of(proto.SerializeToString())


def test_eight_bits_is_the_model_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    assert for_bits(path, 8) == tiny_model()


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("bits", [9, 10, 12, 16])
def test_deeper_variant_has_float_pixels_and_its_own_constants(bits: int, conditioned: bool) -> None:
    variant = onnx.load_model_from_string(for_bits(tiny_model(conditioned=conditioned), bits))
    onnx.checker.check_model(variant, full_check=True)
    ends = [*variant.graph.input, *variant.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    assert numpy_helper.to_array(weight(variant, "unit")) == 255 * 2 ** (bits - 8)
    assert numpy_helper.to_array(weight(variant, "peak")) == 2**bits - 1


def test_making_a_variant_leaves_the_rest_of_the_graph() -> None:
    plain, variant = tiny_proto(), onnx.load_model_from_string(for_bits(tiny_model(), 10))
    for name in ("kernel", "bias", "floor", "scales"):
        assert weight(plain, name) == weight(variant, name)
    assert list(plain.graph.node)[:-1] == list(variant.graph.node)[:-1]


@pytest.mark.parametrize("bits", [-1, 0, 7, 17])
def test_other_depths_are_refused(bits: int) -> None:
    with pytest.raises(EngineError, match="8 to 16"):
        for_bits(tiny_model(), bits)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot read the model .*gone.onnx.*check the path"):
        for_bits(tmp_path / "gone.onnx", 8)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs\n", b"\x00" * 64, b"\xff" * 64])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot use bad\.onnx") as caught:
        for_bits(path, 8)
    assert "\n" not in str(caught.value)


def test_no_truncated_model_is_accepted() -> None:
    whole = tiny_model()
    for length in range(len(whole)):
        with pytest.raises(EngineError, match="the given model"):
            check_contract(whole[:length])


def test_weights_in_another_file_are_refused() -> None:
    proto = tiny_proto()
    kernel = weight(proto, "kernel")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="../weights.bin")
    with pytest.raises(EngineError, match="kernel is in another file"):
        check_contract(proto.SerializeToString())
