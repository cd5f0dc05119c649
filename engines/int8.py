"""Models in 8-bit integers: the same network with quantised inputs and weights in front of every convolution.

A model that can be run so says in its metadata how large the inputs of its convolutions become:

    activation_peaks = "conv0=1 conv1=2.31 conv2=1.87 ..."

The scheme is the usual post-training one (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018): unsigned inputs with one scale a tensor and zero at 0 (none is
negative), signed weights with one scale an output channel. Sums are 32-bit; biases, the interpolation and everything
after the last convolution stay in float32, so that strength 0 is still exactly the interpolation.
Deeper pixels are rounded to 8 bits in front of the first convolution, hence in the residual only.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import EngineError
from .model import load_model, model_name, onnx_library

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

PEAKS = "activation_peaks"
_INPUT_MAX, _WEIGHT_MAX = 255, 127
_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that multiply 8-bit integers and add them up in 32 bits. Those before them saturate at 16 bits."""


def cpu_has_int8() -> bool:
    """Whether this processor computes exactly with 8-bit integers, and faster than in float32.

    Without the instructions the gain is small and sums may saturate, so that the picture would be wrong.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # other systems don't tell without privileges or vendor code
    return platform.machine() == "x86_64" and not _FLAGS.isdisjoint(text.split())


def can_int8(model: Path | bytes) -> bool:
    """Whether a model has what `to_int8` needs.

    Raises:
        EngineError: as `load_model`.
    """
    return bool(_peaks(load_model(model)))


def to_int8(model: Path | bytes) -> bytes:
    """The 8-bit variant of a model, as an ONNX file's content.

    Raises:
        EngineError: as `load_model`; the metadata are missing, malformed, or name nodes that aren't convolutions with
            constant weights.
    """
    proto = load_model(model)
    peaks = _peaks(proto)
    if not peaks:
        raise EngineError(
            f"cannot run {model_name(model)} in int8: its metadata have no {PEAKS}; use float32, or export it again"
        )
    convolutions = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
    weights, replaced = {tensor.name: tensor for tensor in proto.graph.initializer}, set[str]()
    for name, peak in peaks.items():
        node = convolutions.get(name)
        if node is None or node.input[1] not in weights or not 0 < peak < float("inf"):
            raise EngineError(
                f"cannot run {model_name(model)} in int8: {PEAKS} gives {name} the peak {peak:g}, which is not a "
                "convolution with constant weights and a positive peak; export it again"
            )
        kernel = node.input[1]
        _quantise(proto, node, peak, weights[kernel])
        replaced.add(kernel)
    used = {name for node in proto.graph.node for name in node.input}
    for name in replaced - used:
        proto.graph.initializer.remove(weights[name])
    content: bytes = proto.SerializeToString()
    return content


def _peaks(proto: ModelProto) -> dict[str, float]:
    said = next((entry.value for entry in proto.metadata_props if entry.key == PEAKS), "")
    found = {}
    for part in said.split():
        name, _, value = part.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = float("nan")
    return found


def _quantise(proto: ModelProto, node: NodeProto, peak: float, weights: TensorProto) -> None:
    """Puts quantisation and its inverse around the convolution's input, and the inverse behind integer weights."""
    helper = onnx_library().helper
    kernel = onnx_library().numpy_helper.to_array(weights).astype(np.float32)
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_WEIGHT_MAX)
    codes = np.rint(kernel / scale[:, None, None, None]).astype(np.int8)

    name, zeros = node.name, np.zeros(len(scale), np.int8)
    step, zero = np.array(peak / _INPUT_MAX, np.float32), np.array(0, np.uint8)
    weight = [_constant(proto, f"{name}_weight_{i}", value) for i, value in enumerate((codes, scale, zeros))]
    form = [_constant(proto, f"{name}_input_{i}", value) for i, value in enumerate((step, zero))]
    around = [
        helper.make_node("DequantizeLinear", weight, [f"{name}_weight_f"], name=f"{name}_weight_out", axis=0),
        helper.make_node("QuantizeLinear", [node.input[0], *form], [f"{name}_input_q"], name=f"{name}_input_in"),
        helper.make_node("DequantizeLinear", [f"{name}_input_q", *form], [f"{name}_input_f"], name=f"{name}_input_out"),
    ]
    node.input[0], node.input[1] = f"{name}_input_f", f"{name}_weight_f"
    place = list(proto.graph.node).index(node)
    for offset, added in enumerate(around):
        proto.graph.node.insert(place + offset, added)


def _constant(proto: ModelProto, name: str, value: Any) -> str:
    proto.graph.initializer.append(onnx_library().numpy_helper.from_array(value, name))
    return name
