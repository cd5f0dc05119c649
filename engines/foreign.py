"""Networks of others, put into the pixel contract: any ONNX model from picture to picture.

Such a model takes one float picture, gray or RGB, and gives one of the same kind, a whole number of times as large.
Around it go the nodes of `engines.pixels`: an RGB network gets the luma in all three of its channels, and the luma of
what it gives is kept. Its strength moves from bicubic interpolation (or, at the same size, the input) to its picture.

    luma -> codes -> Div(unit) -> its values -> the network -> luma, 0..1 -> Mul(unit) -> codes
                \\-> interpolation ------------------------------------------- + strength * (difference)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import EngineError, vendor_reason
from .model import load_model, onnx_library
from .pixels import ENHANCED, LUMA, OPSET, PEAK, PEAK_8BIT, PIXELS_IN, PIXELS_OUT, STRENGTH, UNIT

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TypeProto

VALUE_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
"""What networks call black and white, the most usual first."""

_PREFIX = "network/"
_IR_VERSION = 8
_SIDE_PX = 192
"""A multiple of every block size that a network may ask for."""
_WORK = frozenset(("Conv", "ConvTranspose", "MatMul"))
_GRAY, _RGB = 1, 3
_RANK, _FIRST, _LAST = 4, 1, 3
_LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
"""Of red, green and blue, ITU-R BT.709; of a gray picture's equal channels any weights give the same."""
_CUBIC = -0.5
"""Catmull-Rom, as the shipped networks' interpolation (Keys, "Cubic convolution interpolation for digital image
processing", IEEE ASSP 1981)."""


@dataclass(frozen=True, slots=True)
class ForeignNetwork:
    """A model from picture to picture, and how pictures lie in it."""

    model: ModelProto
    channels: int
    """1 (gray) or 3 (RGB)."""
    channels_last: bool
    """Whether pictures are [1,height,width,channels] instead of [1,channels,height,width]."""
    scale: int | None
    """Output size over input size; None where the graph doesn't tell."""
    exported_for: tuple[int, int] | None
    """(height, width) that the file declares, which it may take alone; None: any."""
    params: int


def read_foreign(path: Path) -> ForeignNetwork:
    """Reads a model of others, with weights that lie in files beside it, for any picture size.

    Raises:
        EngineError: it can't be read, or isn't from one float picture to one; the message says what it is instead.
    """
    proto = _modern(_read(path), path.name)
    graph = proto.graph
    inputs, outputs = list(graph.input), list(graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise EngineError(
            f"cannot import {path.name}: it takes {_names(inputs)} and gives {_names(outputs)}, not one picture each; "
            "export it with one input and one output"
        )
    channels, last = _layout(inputs[0], path.name)
    height, width = _sides(_dims(inputs[0].type) or (), channels_last=last)
    _free_sizes(graph, inputs[0], channels_last=last)
    types = onnx_library().TensorProto
    numbers = (math.prod(t.dims) for t in graph.initializer if t.data_type in (types.FLOAT, types.FLOAT16))
    return ForeignNetwork(
        proto,
        channels,
        channels_last=last,
        scale=_scale(proto, path.name, channels, channels_last=last),
        exported_for=(height, width) if height and width else None,
        params=sum(numbers),
    )


def by_contract(network: ForeignNetwork, scale: int, values: tuple[float, float] = VALUE_RANGES[0]) -> bytes:
    """The network by the pixel contract, as an ONNX file's content.

    Args:
        network: of `read_foreign`.
        scale: how many times wider and higher its output is.
        values: what it calls black and white.

    Raises:
        EngineError: the two together are no valid model.
    """
    onnx = onnx_library()
    proto = onnx.compose.add_prefix(network.model, _PREFIX)
    _Wrapping(proto, network, scale, values).add()
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise EngineError(f"cannot import {proto.graph.name}: {vendor_reason(error)}") from None
    content: bytes = proto.SerializeToString()
    return content


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pixel of the input costs, as far as the graph tells."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products."""
    values: int
    """In the largest tensor."""
    is_whole: bool
    """Whether every shape is known; else there is more."""


def cost_per_px(network: ForeignNetwork) -> Cost:
    """Counted for a picture of 192x192."""
    graph = _inferred(network.model, channels_last=network.channels_last).graph
    shapes = {value.name: _dims(value.type) for value in (*graph.value_info, *graph.input, *graph.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    macs = largest = 0
    is_whole = True
    for node in graph.node:
        made = math.prod(shapes.get(node.output[0]) or (0,)) if node.output else 0
        largest = max(largest, made)
        weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in _WORK or not weight:
            continue
        if node.op_type == "ConvTranspose":
            work = math.prod(shapes.get(node.input[0]) or (0,)) * math.prod(weight[1:])
        elif node.op_type == "Conv":
            work = made * math.prod(weight[1:])
        else:
            work = made * weight[-2 if len(weight) > 1 else 0]
        is_whole &= work > 0
        macs += work
    return Cost(macs // _SIDE_PX**2, largest // _SIDE_PX**2, is_whole)


def _read(path: Path) -> ModelProto:
    """The whole model; its weights may lie beside it, as new exports have them."""
    onnx = onnx_library()
    try:
        proto = onnx.load(path)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or path)).name
        raise EngineError(f"cannot import {path}: there is no file {missing}; check the path") from None
    except Exception as error:  # protobuf's own types, and what reading weights beside it may raise
        raise EngineError(
            f"cannot import {path.name}: it is no ONNX model, or a part of one is missing: {vendor_reason(error)}; "
            "download or export it again, and keep files of weights beside it"
        ) from None
    return load_model(proto.SerializeToString())


def _modern(proto: ModelProto, name: str) -> ModelProto:
    """The model with one operator set, of the contract's version at least, and without functions of its own."""
    onnx = onnx_library()
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    foreign = sorted({node.domain for node in proto.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise EngineError(
            f"cannot import {name}: it uses operators of {', '.join(foreign)}, which not every engine has; "
            "export it with operators of ONNX alone"
        )
    version = max(op.version for op in proto.opset_import if op.domain in ("", "ai.onnx"))
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", version))
    if version >= OPSET:
        return proto
    try:
        converted: ModelProto = onnx.version_converter.convert_version(proto, OPSET)
    except Exception as error:  # RuntimeError and others, from C++
        raise EngineError(
            f"cannot import {name}: its operators are of set {version}, and can't be brought to {OPSET}: "
            f"{vendor_reason(error)}; export it again with opset {OPSET} or later"
        ) from None
    return converted


def _layout(value: Any, name: str) -> tuple[int, bool]:
    """Channels, and whether they come last."""
    onnx = onnx_library()
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    dims = _dims(value.type)
    if kind in ("FLOAT", "FLOAT16") and dims is not None and len(dims) == _RANK and dims[0] in (0, 1):
        if dims[_FIRST] in (_GRAY, _RGB):
            return dims[_FIRST], False
        if dims[_LAST] in (_GRAY, _RGB):
            return dims[_LAST], True
    shape = "of any shape" if dims is None else str([dim or "?" for dim in dims])
    raise EngineError(
        f"cannot import {name}: its input {value.name} is {kind} {shape}, not one float picture of 1 or 3 channels, "
        "[1,channels,height,width] or [1,height,width,channels]; export it so"
    )


def _free_sizes(graph: GraphProto, value: Any, *, channels_last: bool) -> None:
    """Lets pictures have any size; what was inferred for one doesn't hold any more."""
    dims = value.type.tensor_type.shape.dim
    dims[0].dim_value = 1
    for axis, name in zip((1, 2) if channels_last else (2, 3), ("height", "width"), strict=True):
        dims[axis].Clear()
        dims[axis].dim_param = name
    del graph.value_info[:]
    for made in graph.output:
        made.type.tensor_type.ClearField("shape")


def _scale(proto: ModelProto, name: str, channels: int, *, channels_last: bool) -> int | None:
    """None where it can't be inferred. Raises EngineError for what is no whole multiple, and other channels."""
    dims = _dims(_inferred(proto, channels_last=channels_last).graph.output[0].type)
    if dims is None or 0 in dims[1:]:
        return None
    height, width = _sides(dims, channels_last=channels_last)
    planes = dims[_LAST if channels_last else _FIRST] if len(dims) == _RANK else 0
    if planes != channels or height != width or height % _SIDE_PX or not height:
        raise EngineError(
            f"cannot import {name}: of a picture of {_SIDE_PX}x{_SIDE_PX} with {channels} channels it makes "
            f"{list(dims)}, not one a whole number of times as large with as many channels"
        )
    return height // _SIDE_PX


def _sides(dims: tuple[int, ...], *, channels_last: bool) -> tuple[int, int]:
    """(height, width); 0 for what isn't there."""
    height, width = (*dims, 0, 0, 0, 0)[1:3] if channels_last else (*dims, 0, 0, 0, 0)[2:4]
    return height, width


def _inferred(proto: ModelProto, *, channels_last: bool) -> ModelProto:
    """A copy with every shape that can be inferred for a picture of _SIDE_PX."""
    onnx = onnx_library()
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    for axis in (1, 2) if channels_last else (2, 3):
        fixed.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = _SIDE_PX
    inferred: ModelProto = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    return inferred


def _dims(kind: TypeProto) -> tuple[int, ...] | None:
    """Sizes of a tensor, 0 for those that aren't known; None for any shape."""
    tensor = kind.tensor_type
    return tuple(dim.dim_value for dim in tensor.shape.dim) if tensor.HasField("shape") else None


def _kernel(scale: int) -> Any:
    """[5, scale]: what each of the input samples -2 to 2 counts in each of the samples that one becomes."""
    centres = (np.arange(scale) + 0.5) / scale - 0.5
    apart = np.abs(np.arange(-2, 3)[:, None] - centres)
    near = (_CUBIC + 2) * apart**3 - (_CUBIC + 3) * apart**2 + 1
    far = _CUBIC * (apart**3 - 5 * apart**2 + 8 * apart - 4)
    return np.where(apart <= 1, near, np.where(apart < 2, far, 0.0))


def _names(values: list[Any]) -> str:
    return ", ".join(value.name for value in values) or "nothing"


class _Wrapping:
    """Adds the contract's nodes around a network."""

    def __init__(self, proto: ModelProto, network: ForeignNetwork, scale: int, values: tuple[float, float]) -> None:
        self._proto, self._network, self._scale, self._values = proto, network, scale, values
        graph = proto.graph
        self._input = graph.input[0]
        self._output = graph.output[0]
        self._nodes: list[Any] = []

    def add(self) -> None:
        graph, types = self._proto.graph, onnx_library().TensorProto
        for name, value in ((UNIT, PEAK_8BIT), (PEAK, PEAK_8BIT), ("floor", 0)):
            self._constant(name, np.array(value, np.float32))
        self._node("Cast", [LUMA], "codes", name=PIXELS_IN, to=types.FLOAT)
        self._node("Div", ["codes", UNIT], "pixels")
        self._feed()
        inner = list(graph.node)
        del graph.node[:]
        self._nodes += inner
        self._node("Mul", [self._luma(), UNIT], "network_codes")
        skip = self._interpolation()
        self._node("Sub", ["network_codes", skip], "difference")
        self._node("Mul", ["difference", STRENGTH], "residual")
        self._node("Add", [skip, "residual"], "total")
        self._node("Round", ["total"], "rounded")
        self._node("Clip", ["rounded", "floor", PEAK], "clipped")
        self._node("Cast", ["clipped"], ENHANCED, name=PIXELS_OUT, to=types.UINT8)
        graph.node.extend(self._nodes)
        self._finish()

    def _feed(self) -> None:
        """From 0..1 to the network's input."""
        black, white = self._values
        count = self._network.channels
        kernel = self._constant("spread", np.full((count, 1, 1, 1), white - black, np.float32))
        offset = self._constant("black", np.full(count, black, np.float32))
        made = self._node("Conv", ["pixels", kernel, offset], "values")
        if self._network.channels_last:
            made = self._node("Transpose", [made], "values_last", perm=[0, 2, 3, 1])
        self._node("Cast", [made], self._input.name, to=self._input.type.tensor_type.elem_type)

    def _luma(self) -> str:
        """From the network's output to luma, 0..1."""
        black, white = self._values
        found = self._node("Cast", [self._output.name], "found", to=onnx_library().TensorProto.FLOAT)
        if self._network.channels_last:
            found = self._node("Transpose", [found], "found_first", perm=[0, 3, 1, 2])
        shares = np.array(_LUMA_WEIGHTS if self._network.channels == _RGB else (1,), np.float64) / (white - black)
        kernel = self._constant("shares", shares.astype(np.float32)[None, :, None, None])
        offset = self._constant("lift", np.array([-black / (white - black)], np.float32))
        return self._node("Conv", [found, kernel, offset], "network_luma")

    def _interpolation(self) -> str:
        if self._scale == 1:
            return "codes"
        # As a convolution: a cubic Resize takes OpenVINO 28 ms more for 640x360 (2026.4, two Zen 4 cores).
        reach = len(_kernel(self._scale)) // 2
        pads = self._constant("pads", np.array([0, 0, reach, reach] * 2, np.int64))
        padded = self._node("Pad", ["codes", pads], "padded", mode="edge")
        rows = _kernel(self._scale).T
        kernel = rows[:, None, :, None] * rows[None, :, None, :]
        weight = self._constant("cubic", kernel.reshape(-1, 1, *kernel.shape[2:]).astype(np.float32))
        phases = self._node("Conv", [padded, weight], "phases")
        return self._node("DepthToSpace", [phases], "interpolated", blocksize=self._scale, mode="CRD")

    def _finish(self) -> None:
        graph, make, types = (
            self._proto.graph,
            onnx_library().helper.make_tensor_value_info,
            onnx_library().TensorProto,
        )
        del graph.input[:]
        del graph.output[:]
        size = ["height", "width"]
        larger = size if self._scale == 1 else [f"{self._scale}*{side}" for side in size]
        graph.input.append(make(LUMA, types.UINT8, [1, 1, *size]))
        graph.input.append(make(STRENGTH, types.FLOAT, [1]))
        graph.output.append(make(ENHANCED, types.UINT8, [1, 1, *larger]))
        self._proto.ir_version = max(self._proto.ir_version, _IR_VERSION)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = str(attributes.pop("name", output))
        self._nodes.append(onnx_library().helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        self._proto.graph.initializer.append(onnx_library().numpy_helper.from_array(value, name))
        return name
