"""The pixel contract: decoder pixels in, display pixels out, inside the ONNX graph.

    luma uint8 [1,1,height,width] -> pixels_in (Cast) -> code values -> Div(unit) -> network
    network -> Mul(unit) -> code values -> Round -> Clip(0, peak) -> pixels_out (Cast)
      -> enhanced uint8 [1,1,s*height,s*width]
    strength float32 [1], and in conditioned networks level and noise float32 [1]

`level` and `noise` say how degraded the picture is by compression and by the sensor, from 0 (clean)
to 1 (heavy); networks that don't adapt to them have no such inputs. `unit` is the code value that the
network sees as 1.0, `peak` the largest code value. Both are initializers, so that one shipped 8-bit
model also gives the variants for deeper pixels, and every back end computes the same function without
pre- or post-processing of its own. What is linear, such as the interpolation that the network
corrects, may work on code values directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .base import EngineError
from .model import load_model, model_name, onnx_library, read_model, with_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 17
"""The lowest."""
LUMA, STRENGTH, ENHANCED = "luma", "strength", "enhanced"
CONDITIONS = ("level", "noise")
PIXELS_IN, PIXELS_OUT = "pixels_in", "pixels_out"
UNIT, PEAK = "unit", "peak"
BITS = range(8, 17)
PEAK_8BIT = 255

_FIX = "export it again by the pixel contract of engines.pixels"


def check_contract(model: Path | bytes) -> None:
    """Check that a model follows the pixel contract.

    Raises:
        EngineError: it doesn't, or can't be read; the message names what is wrong.
    """
    _load_checked(model)


def input_names(model: Path | bytes) -> tuple[str, ...]:
    """Of any model; `luma` is among them only where the contract is meant.

    Raises:
        EngineError: as `load_model`.
    """
    return tuple(value.name for value in load_model(model).graph.input)


def for_bits(model: Path | bytes, bits: int) -> bytes:
    """The variant of a shipped 8-bit model for pixels of `bits` bits, as an ONNX file's content.

    8 gives the model as it is: uint8 in and out. 9 to 16 give float32 `luma` and `enhanced`
    that hold whole code values, 0 to 2**bits - 1. They are float because TensorRT has no
    uint16 tensors, and one contract for all engines is worth more than the bytes saved;
    float32 holds every such code exactly. The unit becomes 255 * 2**(bits - 8), because
    video's deeper code values are the 8-bit ones shifted left, so the network sees the same
    picture at every depth; the peak is larger than that, 2**bits - 1.

    Raises:
        EngineError: bits out of range, an unreadable model, or one outside the contract.
    """
    if bits not in BITS:
        raise EngineError(
            f"cannot prepare {model_name(model)} for {bits}-bit pixels: use {BITS.start} to {BITS.stop - 1} bits"
        )
    content = read_model(model)
    proto = _load_checked(model)
    if bits == BITS.start:
        return content
    _deepen(proto.graph, bits)
    variant: bytes = proto.SerializeToString()
    return variant


def scale_of(model: Path | bytes) -> int:
    """How many times wider and higher `enhanced` is than `luma`.

    Raises:
        EngineError: an unreadable model, one outside the contract, or one whose output is not
            a whole multiple of its input.
    """
    onnx = onnx_library()
    side = 240  # a multiple of every block size a network may ask for: 2, 3, 4, 5, 6, 8
    check_contract(model)
    fixed = with_shapes(model, {LUMA: (1, 1, side, side)})
    proto = onnx.load_model_from_string(fixed.content)
    dims = onnx.shape_inference.infer_shapes(proto).graph.output[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in dims]
    scale = shape[-1] // side if shape else 0
    if not scale or shape != [1, 1, scale * side, scale * side]:
        raise EngineError(
            f"cannot use {model_name(model)}: for luma [1, 1, {side}, {side}] it gives "
            f"{ENHANCED} {shape}, not a whole multiple; {_FIX}"
        )
    return scale


def peak_of(proto: ModelProto) -> float:
    """The largest code value of a model by the contract, of whatever depth.

    Raises:
        EngineError: it has no initializer that says so.
    """
    found = [tensor for tensor in proto.graph.initializer if tensor.name == PEAK]
    if not found:
        raise EngineError(f"the model has no initializer {PEAK}; {_FIX}")
    return float(onnx_library().numpy_helper.to_array(found[0]).item())


def _load_checked(model: Path | bytes) -> ModelProto:
    proto = load_model(model)
    problem = next(_problems(proto), None)
    if problem:
        raise EngineError(f"cannot use {model_name(model)}: {problem}; {_FIX}")
    return proto


def _problems(proto: ModelProto) -> Iterator[str]:
    """What breaks the contract, the most telling first."""
    graph = proto.graph
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    if opsets.keys() != {"ai.onnx"} or opsets["ai.onnx"] < OPSET:
        yield f"its operator sets are {opsets}, not ai.onnx {OPSET} or later alone"
    yield from _tensor_problems(graph)
    yield from _constant_problems(graph)
    yield from _chain_problems(graph)


def _tensor_problems(graph: GraphProto) -> Iterator[str]:
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: value for value in graph.output}
    scalars = inputs.keys() - {LUMA}
    if LUMA not in inputs or scalars not in ({STRENGTH}, {STRENGTH, *CONDITIONS}):
        conditions = " and ".join(CONDITIONS)
        yield f"its inputs are {sorted(inputs)}, not {LUMA}, {STRENGTH} and, if it is conditioned, {conditions}"
        return
    if outputs.keys() != {ENHANCED}:
        yield f"its outputs are {sorted(outputs)}, not {ENHANCED}"
        return
    yield from _layout_problems(inputs[LUMA], "UINT8", (1, 1, None, None))
    for name in sorted(scalars):
        yield from _layout_problems(inputs[name], "FLOAT", (1,))
    yield from _layout_problems(outputs[ENHANCED], "UINT8", (1, 1, None, None))


def _layout_problems(value: ValueInfoProto, dtype: str, shape: tuple[int | None, ...]) -> Iterator[str]:
    onnx = onnx_library()
    tensor = value.type.tensor_type
    found = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if found != dtype:
        yield f"its {value.name} is {found}, not {dtype}"
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    if sizes != shape:
        yield f"its {value.name} is {_layout(sizes)}, not {_layout(shape)} (? is any size)"


def _layout(sizes: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"


def _constant_problems(graph: GraphProto) -> Iterator[str]:
    to_array = onnx_library().numpy_helper.to_array
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for name in (UNIT, PEAK):
        if name not in weights:
            yield f"it has no initializer {name}"
            continue
        value = to_array(weights[name])
        if value.dtype != np.float32 or value.size != 1 or value.item() != PEAK_8BIT:
            yield f"its initializer {name} is not one float32 of {PEAK_8BIT}"


def _chain_problems(graph: GraphProto) -> Iterator[str]:
    """The nodes at both ends: only they may see code values, unit and peak."""
    nodes = {node.name: node for node in graph.node if node.name}
    first, last = nodes.get(PIXELS_IN), nodes.get(PIXELS_OUT)
    if first is None or _form(first) != ("Cast", [LUMA], "FLOAT"):
        yield f"it has no node {PIXELS_IN} that casts {LUMA} to FLOAT"
    elif last is None or last.op_type != "Cast" or list(last.output) != [ENHANCED]:
        yield f"it has no node {PIXELS_OUT} that casts to {ENHANCED}"
    elif _form(last)[2] != "UINT8":
        yield f"its node {PIXELS_OUT} does not cast to UINT8"
    else:
        yield from _end_problems(graph, first, last)


def _end_problems(graph: GraphProto, first: NodeProto, last: NodeProto) -> Iterator[str]:
    makers = {name: node for node in graph.node for name in node.output}
    clip = makers.get(last.input[0])
    rounding = makers.get(clip.input[0]) if clip else None
    tail = [node.op_type if node else "nothing" for node in (rounding, clip)]
    if clip is None or tail != ["Round", "Clip"]:
        yield f"before {PIXELS_OUT} it has {tail[0]} and {tail[1]}, not Round and Clip"
        return
    _, *limits = clip.input
    if limits[1:] != [PEAK] or not _is_zero(graph, limits[0]):
        yield f"its last Clip is not between an initializer of 0 and the initializer {PEAK}"
    if not any(_divides(node, first.output[0]) for node in graph.node):
        yield f"no Div by the initializer {UNIT} follows its node {PIXELS_IN}"
    for name, wanted in ((UNIT, ["Div", "Mul"]), (PEAK, ["Clip"]), (LUMA, ["Cast"])):
        used = sorted(node.op_type for node in graph.node for use in node.input if use == name)
        if used != wanted:
            yield f"its {name} is used by {used}, not by {wanted}"


def _divides(node: NodeProto, codes: str) -> bool:
    return node.op_type == "Div" and list(node.input) == [codes, UNIT]


def _is_zero(graph: GraphProto, name: str) -> bool:
    to_array = onnx_library().numpy_helper.to_array
    found = [tensor for tensor in graph.initializer if tensor.name == name]
    return len(found) == 1 and not to_array(found[0]).any()


def _form(cast: NodeProto) -> tuple[str, list[str], str]:
    onnx = onnx_library()
    target = next((entry.i for entry in cast.attribute if entry.name == "to"), 0)
    return cast.op_type, list(cast.input), onnx.TensorProto.DataType.Name(target)


def _deepen(graph: GraphProto, bits: int) -> None:
    onnx = onnx_library()
    weights = {tensor.name: tensor for tensor in graph.initializer}
    _set_scalar(weights[UNIT], PEAK_8BIT * 2.0 ** (bits - BITS.start))
    _set_scalar(weights[PEAK], 2.0**bits - 1)
    for value in (*graph.input, *graph.output):
        if value.name in (LUMA, ENHANCED):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    last = next(node for node in graph.node if node.name == PIXELS_OUT)
    next(entry for entry in last.attribute if entry.name == "to").i = onnx.TensorProto.FLOAT


def _set_scalar(tensor: TensorProto, value: float) -> None:
    helper = onnx_library().numpy_helper
    same_form = np.full_like(helper.to_array(tensor), value)
    tensor.CopyFrom(helper.from_array(same_form, tensor.name))
