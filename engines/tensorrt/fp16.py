"""Models in 16-bit floats: the same network with float16 convolutions and float32 ends.

TensorRT takes the precision from the model's own types, so the model itself is converted. A node becomes float16 only
if its operator is known to bear it; reductions, statistics, exponentials and coordinates stay in float32, and so does
everything that works on code values, because float16 has 11 bits: strength 0 is still exactly the interpolation.
Casts stand only where the two meet, so neighbouring float32 nodes are one island with no float16 between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import load_model, onnx_library
from ..pixels import PEAK, PIXELS_IN, UNIT

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

VERSION = 1
"""Of the conversion. Plans made by another one are not used."""

# fmt: off
SAFE = frozenset((
    "Conv", "ConvTranspose",
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid",
    "Add", "Sub", "Mul",
    "Concat", "DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Pad", "Slice", "Split",
    "Squeeze", "Unsqueeze", "Expand", "Identity", "MaxPool", "Resize",
))
# fmt: on
"""Operators that compute as well in float16, apart from overflow."""
_ALWAYS_FLOAT = {"Resize": (1, 2)}
"""Inputs that stay float32 by the operator's definition: region and scales."""
_HALF_MAX = float(np.finfo(np.float16).max)
_SUFFIX = "_f16"


def to_fp16(model: Path | bytes, blocked: Iterable[str] = ()) -> bytes:
    """The 16-bit variant of a model, as an ONNX file's content. Inputs and outputs keep their types.

    Args:
        model: an ONNX file or its content.
        blocked: tensors such as those that overflow, see `engines.tensorrt.overflow`; what makes and what reads them
            stays float32.

    Raises:
        EngineError: as `load_model`.
    """
    onnx = onnx_library()
    proto = onnx.shape_inference.infer_shapes(load_model(model))
    graph = proto.graph
    _Conversion(graph, _half_nodes(graph, frozenset(blocked))).run()
    del graph.value_info[:]  # of the old types
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


def end_layers(model: Path | bytes) -> list[str]:
    """What the first and the last convolution make of those that `to_fp16` would convert; empty without any.

    Raises:
        EngineError: as `load_model`.
    """
    graph = onnx_library().shape_inference.infer_shapes(load_model(model)).graph
    nodes = (graph.node[place] for place in sorted(_half_nodes(graph, frozenset())))
    made = [node.output[0] for node in nodes if node.op_type == "Conv"]
    return [*dict.fromkeys((*made[:1], *made[-1:]))]


def _half_nodes(graph: GraphProto, blocked: frozenset[str]) -> set[int]:
    """Places in the graph of the nodes that become float16."""
    floats = _float_tensors(graph)
    too_large = {name for name, value in _constants(graph).items() if np.abs(value).max(initial=0) > _HALF_MAX}
    floats_only = _code_values(graph) | blocked | too_large
    chosen = set()
    for place, node in enumerate(graph.node):
        keep = bool(floats_only & {*node.input, *node.output})
        if node.op_type in SAFE and set(node.output) <= floats and not keep:
            chosen.add(place)
    return chosen


def _float_tensors(graph: GraphProto) -> set[str]:
    float_type = onnx_library().TensorProto.FLOAT
    values = (*graph.value_info, *graph.input, *graph.output)
    named = {value.name for value in values if value.type.tensor_type.elem_type == float_type}
    return named | {tensor.name for tensor in graph.initializer if tensor.data_type == float_type}


def _constants(graph: GraphProto) -> dict[str, Any]:
    onnx = onnx_library()
    floats = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in floats}


def _code_values(graph: GraphProto) -> set[str]:
    """Tensors that hold code values: between the first cast and the division by the unit, and everything after a
    multiplication with the unit or an addition to code values."""
    codes = {UNIT, PEAK}
    for node in graph.node:
        if node.name == PIXELS_IN:
            codes |= set(node.output)
        elif node.op_type == "Div" and node.input[1] == UNIT:
            continue
        elif codes & set(node.input):
            codes |= set(node.output)
    return codes


class _Conversion:
    """Gives every tensor that both kinds of nodes touch a second name, and casts between the two."""

    def __init__(self, graph: GraphProto, half: set[int]) -> None:
        self._graph, self._half = graph, half
        self._floats, self._constants = _float_tensors(graph), _constants(graph)
        self._made_half = {name for place in half for name in graph.node[place].output}
        self._nodes: list[NodeProto] = []
        self._known: set[str] = set()  # second names that exist already

    def run(self) -> None:
        for place, node in enumerate(list(self._graph.node)):
            if place in self._half:
                self._convert(node)
            else:
                for name in node.input:
                    self._need_float(name)
                self._nodes.append(node)
        for value in self._graph.output:
            self._need_float(value.name)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _convert(self, node: NodeProto) -> None:
        always = _ALWAYS_FLOAT.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self._floats and index not in always:
                node.input[index] = self._as_half(name)
            else:
                self._need_float(name)
        for index, name in enumerate(node.output):
            node.output[index] = name + _SUFFIX
        self._nodes.append(node)

    def _as_half(self, name: str) -> str:
        half = name + _SUFFIX
        if name in self._made_half or half in self._known:
            return half
        self._known.add(half)
        if name in self._constants:
            helper = onnx_library().numpy_helper
            self._graph.initializer.append(helper.from_array(self._constants[name].astype(np.float16), half))
        else:
            self._cast(name, half, onnx_library().TensorProto.FLOAT16)
        return half

    def _need_float(self, name: str) -> None:
        if name in self._made_half and name not in self._known:
            self._known.add(name)
            self._cast(name + _SUFFIX, name, onnx_library().TensorProto.FLOAT)

    def _cast(self, source: str, target: str, dtype: int) -> None:
        make = onnx_library().helper.make_node
        self._nodes.append(make("Cast", [source], [target], name=f"{target}_cast", to=dtype))
