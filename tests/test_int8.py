"""8-bit integer variants: what they compute, on which engines, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import engines
from engines import EngineError, EngineRequest
from engines.int8 import can_int8, cpu_has_int8, to_int8
from tests import pixel_models
from tests.pixel_models import Array, expected, picture, tiny_proto, with_listed_weights

HEIGHT, WIDTH = 18, 26
USABLE = [row.name for row in engines.available_engines() if row.usable]
exact = pytest.mark.skipif(not cpu_has_int8(), reason="this processor has no VNNI: 8-bit sums may saturate")


def described(peaks: str = "conv0=1") -> onnx.ModelProto:
    proto = tiny_proto()
    next(node for node in proto.graph.node if node.op_type == "Conv").name = "conv0"
    onnx.helper.set_model_props(proto, {"activation_peaks": peaks})
    return proto


def run(engine: str, precision: str, luma: Array, strength: float = 1.0) -> Array:
    model = described().SerializeToString()
    with engines.open_engine(EngineRequest(model, WIDTH, HEIGHT, engine=engine, precision=precision)) as opened:
        assert opened.precision == precision
        ticket = opened.submit({"luma": luma, "strength": np.array([strength], np.float32)})
        return opened.collect(ticket)["enhanced"].copy()


@exact
@pytest.mark.parametrize("engine", USABLE)
def test_weights_of_eight_bits_are_what_runs(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pixel_models.KERNEL
    scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 127
    luma = picture(3, HEIGHT, WIDTH)
    found = run(engine, "int8", luma)
    assert not np.array_equal(found, run(engine, "f32", luma))  # noise shows that weights are rounded
    monkeypatch.setattr(pixel_models, "KERNEL", np.rint(kernel / scale) * scale)
    assert np.abs(found - expected(luma, 1.0)).max() < 0.51


@exact
@pytest.mark.parametrize("engine", USABLE)
def test_strength_0_stays_exact(engine: str) -> None:
    luma = picture(4, HEIGHT, WIDTH)
    assert np.array_equal(run(engine, "int8", luma, 0.0), run(engine, "f32", luma, 0.0))


def test_every_convolution_has_integer_operands() -> None:
    proto = onnx.load_model_from_string(to_int8(described().SerializeToString()))
    onnx.checker.check_model(proto, full_check=True)
    ops = [node.op_type for node in proto.graph.node]
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (1, 2)
    kernel = next(tensor for tensor in proto.graph.initializer if list(tensor.dims) == [4, 1, 3, 3])
    assert kernel.data_type == onnx.TensorProto.INT8
    assert "kernel" not in [tensor.name for tensor in proto.graph.initializer]


def test_two_convolutions_may_share_their_weights() -> None:
    proto = described("conv0=1 conv1=1")
    first = next(node for node in proto.graph.node if node.name == "conv0")
    second = onnx.helper.make_node("Conv", [*first.input], ["others"], name="conv1", pads=[1, 1, 1, 1])
    both = onnx.helper.make_node("Add", ["phases", "others"], ["both"])
    place = list(proto.graph.node).index(first) + 1
    following = next(node for node in proto.graph.node if node.op_type == "DepthToSpace")
    following.input[0] = "both"
    proto.graph.node.insert(place, both)
    proto.graph.node.insert(place, second)
    made = onnx.load_model_from_string(to_int8(proto.SerializeToString()))
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node].count("DequantizeLinear") == 4
    assert "kernel" not in [tensor.name for tensor in made.graph.initializer]


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("engine", USABLE)
def test_a_model_that_lists_its_weights_runs(engine: str, ir_version: int) -> None:
    """Its weights are replaced, and must not stay among its inputs."""
    model = with_listed_weights(described(), ir_version).SerializeToString()
    with engines.open_engine(EngineRequest(model, WIDTH, HEIGHT, engine=engine, precision="int8")) as opened:
        assert [spec.name for spec in opened.inputs] == ["luma", "strength"]


@pytest.mark.parametrize("engine", USABLE)
def test_auto_takes_integers_where_model_and_processor_allow_it(engine: str) -> None:
    wanted = "int8" if cpu_has_int8() else "f32"
    for model, precision in ((described(), wanted), (tiny_proto(), "f32")):
        with engines.open_engine(EngineRequest(model.SerializeToString(), WIDTH, HEIGHT, engine=engine)) as opened:
            assert opened.precision == precision


def test_a_model_without_peaks_cannot() -> None:
    model = tiny_proto().SerializeToString()
    assert not can_int8(model)
    with pytest.raises(EngineError, match="in int8: its metadata have no activation_peaks; use float32"):
        engines.open_engine(EngineRequest(model, WIDTH, HEIGHT, precision="int8"))


@pytest.mark.parametrize("peaks", ["conv9=1", "conv0=0", "conv0=much", "conv0=nan", "conv0=inf"])
def test_wrong_peaks_are_refused(peaks: str) -> None:
    with pytest.raises(EngineError, match="is not a convolution with constant weights and a positive peak"):
        to_int8(described(peaks).SerializeToString())


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="no precision 'bf16': use auto, f32, f16 or int8"):
        engines.open_engine(EngineRequest(tiny_proto().SerializeToString(), WIDTH, HEIGHT, precision="bf16"))


def test_a_processor_without_the_instructions_runs_float(monkeypatch: pytest.MonkeyPatch) -> None:
    def cpuinfo(flags: str) -> None:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : fpu avx2 {flags}\n")

    cpuinfo("avx512f")
    assert not cpu_has_int8()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for flag in ("avx512_vnni", "avx_vnni", "amx_int8"):
        cpuinfo(flag)
        assert cpu_has_int8()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not cpu_has_int8()
