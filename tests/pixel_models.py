"""Small ONNX models that follow the pixel contract, and what they must compute, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

SCALE = 2
SIDE = 3
BRIGHTER = 0.25
"""What level 1 adds to the conditioned model's pixels, and noise 1 takes from them, as a share of the unit."""
_RNG = np.random.default_rng(7)
KERNEL = _RNG.normal(0, 0.2, (SCALE * SCALE, 1, SIDE, SIDE)).astype(np.float32)
BIAS = _RNG.normal(0, 0.05, SCALE * SCALE).astype(np.float32)


def tiny_proto(*, conditioned: bool = False) -> onnx.ModelProto:
    """Nearest-neighbour times two, plus strength times a convolution's residual.

    Conditioned: brighter by level, darker by noise.
    """
    nodes = _nodes()
    inputs = [
        helper.make_tensor_value_info("luma", TensorProto.UINT8, [1, 1, "height", "width"]),
        helper.make_tensor_value_info("strength", TensorProto.FLOAT, [1]),
    ]
    weights = {
        "unit": np.array(255, np.float32),
        "floor": np.array(0, np.float32),
        "peak": np.array(255, np.float32),
        "scales": np.array([1, 1, SCALE, SCALE], np.float32),
        "kernel": KERNEL,
        "bias": BIAS,
    }
    if conditioned:
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("level", "noise")]
        weights["brighter"] = np.array(BRIGHTER, np.float32)
        place = next(index for index, node in enumerate(nodes) if node.op_type == "Add")
        nodes[place].output[0] = "dark"
        nodes.insert(place + 1, helper.make_node("Add", ["dark", "light"], ["sum"]))
        nodes.insert(place, helper.make_node("Mul", ["balance", "brighter"], ["light"]))
        nodes.insert(place, helper.make_node("Sub", ["level", "noise"], ["balance"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("enhanced", TensorProto.UINT8, [1, 1, "2*height", "2*width"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def _nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["luma"], ["codes"], name="pixels_in", to=TensorProto.FLOAT),
        helper.make_node("Div", ["codes", "unit"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "kernel", "bias"], ["phases"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["phases"], ["detail"], blocksize=SCALE, mode="CRD"),
        helper.make_node("Mul", ["detail", "strength"], ["residual"]),
        helper.make_node(
            "Resize",
            ["pixels", "", "scales"],
            ["skip"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Add", ["skip", "residual"], ["sum"]),
        helper.make_node("Mul", ["sum", "unit"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "floor", "peak"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["enhanced"], name="pixels_out", to=TensorProto.UINT8),
    ]


def tiny_model(*, conditioned: bool = False) -> bytes:
    content: bytes = tiny_proto(conditioned=conditioned).SerializeToString()
    return content


def with_listed_weights(proto: onnx.ModelProto, ir_version: int = 8) -> onnx.ModelProto:
    """The same with its weights among the inputs: older files must list them so, newer ones may."""
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.ir_version = ir_version
    return proto


def with_weights_by(operator: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with its kernel from a node: Constant, or the Identity that torch exports for equal weights."""
    kernel = next(tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    conv.input[1] = "made"
    if operator == "Constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["made"], value=kernel))
        proto.graph.initializer.remove(kernel)
    else:
        proto.graph.node.insert(0, helper.make_node("Identity", ["kernel"], ["made"]))
    return proto


def stateful_model() -> bytes:
    """Strength times the mean of all pictures so far, rounded down: its state is their sum and how many they were."""
    float_, codes = TensorProto.FLOAT, TensorProto.UINT8
    planes: list[str | int | None] = [1, 1, "height", "width"]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["luma"], ["codes"], name="pixels_in", to=float_),
            helper.make_node("Add", ["sum", "codes"], ["sum_next"]),
            helper.make_node("Add", ["count", "one"], ["count_next"]),
            helper.make_node("Div", ["sum_next", "count_next"], ["mean"]),
            helper.make_node("Mul", ["mean", "strength"], ["scaled"]),
            helper.make_node("Floor", ["scaled"], ["floored"]),
            helper.make_node("Cast", ["floored"], ["enhanced"], name="pixels_out", to=codes),
        ],
        "mean",
        [
            info("luma", codes, planes),
            info("strength", float_, [1]),
            info("sum", float_, planes),
            info("count", float_, [1]),
        ],
        [info("enhanced", codes, planes), info("sum_next", float_, planes), info("count_next", float_, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def expected(luma: Array, strength: float, bits: int = 8, level: float = 0.0, noise: float = 0.0) -> Array:
    """What the model must give, before rounding: `[1,1,h,w]` to float64 `[1,1,2h,2w]` codes."""
    unit = 255.0 * 2 ** (bits - 8)
    pixels = luma[0, 0] / unit
    height, width = pixels.shape
    padded = np.pad(pixels, 1)
    out = np.repeat(np.repeat(pixels, SCALE, axis=0), SCALE, axis=1)
    for phase in range(SCALE * SCALE):
        total = np.full((height, width), float(BIAS[phase]))
        for dy in range(SIDE):
            for dx in range(SIDE):
                part = padded[dy : dy + height, dx : dx + width]
                total += KERNEL[phase, 0, dy, dx] * part
        out[phase // SCALE :: SCALE, phase % SCALE :: SCALE] += strength * total
    codes: Array = np.clip((out + BRIGHTER * (level - noise)) * unit, 0, 2**bits - 1)[None, None]
    return codes


def picture(seed: int, height: int, width: int, bits: int = 8) -> Array:
    """Noise in every code value, `[1,1,height,width]`."""
    dtype = np.dtype(f"uint{8 if bits <= np.iinfo(np.uint8).bits else 16}")
    return np.random.default_rng(seed).integers(0, 2**bits, (1, 1, height, width), dtype)


def assert_close(found: Array, wanted: Array) -> None:
    """Within one code value."""
    assert found.shape == wanted.shape
    assert np.abs(found.astype(np.float64) - wanted).max() <= 1.0
