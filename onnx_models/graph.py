"""The ONNX graph of a network: pixels in, pixels out, every step a node.

Contract (version 1), relied on by every engine:

- inputs `luma` uint8 `[1,1,height,width]`, `strength` float32 `[1]` and, if the network is
  conditioned, `level` and `noise` float32 `[1]` (see `onnx_models.level`); at strength 0 the output
  is the interpolation, at 1 what the network was trained for;
  output `enhanced` uint8 `[1,1,scale*height,scale*width]`;
- the first node, `pixels_in`, casts to float; `unit` is the code value that means 1.0;
  the last nodes round, clip to `[0, peak]` and cast (`pixels_out`);
- a deeper format is the same graph with other element types in `luma`, `enhanced` and the two
  casts, and other values in `unit` and `peak`.

The interpolation runs on code values, not on values divided by `unit`: for x2 its weights are
multiples of 2^-14, so float32 holds every partial sum exactly and strength 0 gives the rounded
bicubic interpolation to the last bit on every back end, ties included.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from onnx_models.level import LEVEL_NAMES
from onnx_models.networks import (
    SKIP_RADIUS,
    Network,
    Shape,
    block_bicubic_kernel,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OPSET = 17
IR_VERSION = 8
PEAK_8BIT = 255.0


class _Graph:
    """Collects nodes and initializers; every method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = str(attributes.pop("name", output))
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output


def in_blocks(kernel: Tensor, factor: int, block: int) -> Tensor:
    """A 3x3 convolution in front of a pixel-shuffle, computed a block of input pixels at a time.

    Args:
        kernel: `[factor^2, C, 3, 3]`.
        factor: of the pixel-shuffle.
        block: side of a block.

    Returns:
        `[(factor*block)^2, C, 2+block, 2+block]`, for a convolution with stride `block` and padding 1 in front of a
        pixel-shuffle by `factor * block`: the same sums. Processors compute 16 output channels at the price of 4.
    """
    plain = kernel.view(factor, factor, *kernel.shape[1:])
    side, reach = factor * block, 2 + block
    wide = torch.zeros(side, side, kernel.shape[1], reach, reach)
    for i, j in itertools.product(range(side), repeat=2):
        y, x = i // factor, j // factor
        wide[i, j, :, y : y + 3, x : x + 3] = plain[i % factor, j % factor]
    return wide.flatten(0, 1)


def _in_blocks_bias(bias: Tensor, factor: int, block: int) -> Tensor:
    return bias.view(factor, factor).repeat(block, block).flatten()


def _blend(graph: _Graph) -> str:
    """`networks.blend` as nodes: makes `vividness`, returns the gain."""
    none, one, two = (
        graph.constant(name, np.array(value, np.float32)) for value, name in enumerate(("none", "one", "two"))
    )
    doubled = graph.node("Mul", ["strength", two], "doubled")
    graph.node("Clip", [graph.node("Sub", [doubled, one], "beyond"), none, one], "vividness")
    return graph.node("Max", [graph.node("Min", [doubled, one], "up_to_one"), "strength"], "blended")


def _with_conditions(graph: _Graph, x: str, names: Sequence[str]) -> str:
    """`x` with a channel more for each of these scalars, which holds it everywhere."""
    size = graph.node("Shape", [x], "size", start=2)
    one = graph.constant("one_plane", np.array([1, 1], np.int64))
    plane = graph.node("Concat", [one, size], "plane_size", axis=0)
    planes = [graph.node("Expand", [name, plane], f"{name}_plane") for name in names]
    return graph.node("Concat", [x, *planes], "with_conditions", axis=1)


def _residual(graph: _Graph, network: Network, pixels: str) -> str:
    shape = network.shape
    x = pixels
    if shape.unshuffle > 1:
        x = graph.node("SpaceToDepth", [x], "unshuffled", blocksize=shape.unshuffle)
    if shape.conditioned:
        x = _with_conditions(graph, x, [*LEVEL_NAMES, "vividness"] if shape.vivid else LEVEL_NAMES)
    last = len(network.layers) - 1
    for i, conv in enumerate(network.layers):
        block = shape.tail_block if i == last else 1
        kernel, values = conv.kernel().detach().cpu(), conv.bias.detach().cpu()
        if block > 1:
            kernel, values = in_blocks(kernel, shape.factor, block), _in_blocks_bias(values, shape.factor, block)
        weight = graph.constant(f"conv{i}_weight", kernel.contiguous().numpy())
        bias = graph.constant(f"conv{i}_bias", values.numpy())
        x = graph.node(
            "Conv",
            [x, weight, bias],
            f"conv{i}",
            kernel_shape=list(kernel.shape[2:]),
            pads=[1, 1, 1, 1],
            strides=[block, block],
        )
        if i < last:
            x = graph.node("Relu", [x], f"act{i}")
    return x


def _interpolation(graph: _Graph, network: Network, codes: str) -> str:
    """The skip as `[1, (s*m)^2, height/m, width/m]` phases, in code values; m is `multiple_of`."""
    shape = network.shape
    if shape.scale == 1:
        return codes
    edge = [0, 0, SKIP_RADIUS, SKIP_RADIUS] * 2
    pads = graph.constant("skip_pads", np.array(edge, np.int64))
    padded = graph.node("Pad", [codes, pads], "padded", mode="edge")
    kernel = block_bicubic_kernel(shape.scale, shape.multiple_of).numpy()
    weight = graph.constant("skip_weight", kernel)
    size, stride = list(kernel.shape[2:]), [shape.multiple_of] * 2
    return graph.node("Conv", [padded, weight], "phases", kernel_shape=size, strides=stride)


def _shuffle(graph: _Graph, x: str, factor: int, output: str) -> str:
    if factor == 1:
        return x
    return graph.node("DepthToSpace", [x], output, blocksize=factor, mode="CRD")


def build_model(network: Network, name: str, peaks: Sequence[float] = ()) -> onnx.ModelProto:
    """The network as an ONNX model that fulfils the contract above.

    Args:
        network: what to write.
        name: of the graph.
        peaks: largest input of every convolution (`Network.peaks`), written into the model's metadata as
            `activation_peaks`, from which engines make 8-bit integer variants.

    Raises:
        onnx.checker.ValidationError: the graph is malformed (a bug).
    """
    shape, graph = network.shape, _Graph()
    unit = graph.constant("unit", np.array(PEAK_8BIT, np.float32))
    peak = graph.constant("peak", np.array(PEAK_8BIT, np.float32))
    zero = graph.constant("floor", np.array(0, np.float32))
    codes = graph.node("Cast", ["luma"], "codes", to=TensorProto.FLOAT, name="pixels_in")
    pixels = graph.node("Div", [codes, unit], "pixels")
    strength = _blend(graph) if shape.vivid else "strength"
    gain = graph.node("Mul", [strength, unit], "gain")
    residual = graph.node("Mul", [_residual(graph, network, pixels), gain], "residual")
    phases = _interpolation(graph, network, codes)
    block = shape.scale * shape.multiple_of
    if shape.scale == 1:
        summed = graph.node("Add", [phases, _shuffle(graph, residual, block, "detail")], "summed")
    else:
        total = graph.node("Add", [phases, residual], "total")
        summed = _shuffle(graph, total, block, "summed")
    rounded = graph.node("Round", [summed], "rounded")
    clipped = graph.node("Clip", [rounded, zero, peak], "clipped")
    graph.node("Cast", [clipped], "enhanced", to=TensorProto.UINT8, name="pixels_out")
    model = _finish(graph, shape, name)
    if peaks:
        text = " ".join(f"conv{i}={peak:.6g}" for i, peak in enumerate(peaks))
        helper.set_model_props(model, {"activation_peaks": text})
    return model


def _finish(graph: _Graph, shape: Shape, name: str) -> onnx.ModelProto:
    scale, scalars = shape.scale, ["strength", *LEVEL_NAMES] if shape.conditioned else ["strength"]
    size = ["height", "width"]
    out = size if scale == 1 else [f"{scale}*{side}" for side in size]
    proto = helper.make_graph(
        graph.nodes,
        name,
        [
            helper.make_tensor_value_info("luma", TensorProto.UINT8, [1, 1, *size]),
            *(helper.make_tensor_value_info(scalar, TensorProto.FLOAT, [1]) for scalar in scalars),
        ],
        [helper.make_tensor_value_info("enhanced", TensorProto.UINT8, [1, 1, *out])],
        graph.initializers,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    model.producer_name = "streamer-enhancer"
    onnx.checker.check_model(model, full_check=True)
    return model


def reference(
    network: Network, luma: NDArray[np.uint8], strength: float = 1.0, levels: Sequence[float] = (0.0, 0.0)
) -> NDArray[np.uint8]:
    """What the graph must compute, by torch: uint8 `[H,W]` to uint8 `[sH,sW]`."""
    return reference_values(network, luma, strength, levels).round().clip(0, PEAK_8BIT).astype(np.uint8)


def reference_values(
    network: Network, luma: NDArray[np.uint8], strength: float = 1.0, levels: Sequence[float] = (0.0, 0.0)
) -> NDArray[np.float32]:
    """The same before rounding and clipping."""
    codes = torch.from_numpy(luma.astype(np.float32))[None, None]
    with torch.no_grad():
        detail = network.cpu().detail(codes / PEAK_8BIT, strength, torch.tensor([levels]))
        out = network.interpolate(codes) + detail * PEAK_8BIT
    values: NDArray[np.float32] = out[0, 0].numpy()
    return values
