"""Networks as others export them, and what they must make of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]

_SHARPER = np.array([[0, -1, 0], [-1, 8, -1], [0, -1, 0]], np.float32) / 4
_LUMA = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Foreign:
    """Enlarges by repeating pixels, sharpens, and keeps what it gives between black and white."""

    channels: int = 3
    scale: int = 2
    black: float = 0.0
    white: float = 1.0
    brighter: float = 0.0
    """What it adds to white: 0.05 is five percent."""
    opset: int = 17
    half: bool = False
    last: bool = False
    """[1,height,width,channels]"""
    block: int = 1
    """Unshuffles by it, and back: sides must be multiples."""
    size: int | None = None
    """Exported for this one."""
    weights_beside: bool = False
    listed: bool = False
    """Names its weights among its inputs, as old exports do."""

    def proto(self) -> onnx.ModelProto:
        number = np.float16 if self.half else np.float32
        kernel = np.zeros((self.channels, self.channels, 3, 3), number)
        for channel in range(self.channels):
            kernel[channel, channel] = _SHARPER
        constants = {
            "kernel": kernel,
            "roi": np.empty(0, np.float32),
            "bias": np.full(self.channels, self.brighter * self.white, number),
            "scales": np.array([1, 1, self.scale, self.scale], np.float32),
            "black": np.array(self.black, number),
            "white": np.array(self.white, number),
        }
        nodes = self._nodes()
        values = [self._value("in", 1), self._value("out", self.scale)]
        kind = values[0].type.tensor_type.elem_type
        listed = [helper.make_tensor_value_info("kernel", kind, kernel.shape)] if self.listed else []
        weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "foreign", [values[0], *listed], [values[1]], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model

    def save(self, path: Path) -> Path:
        model = self.proto()
        if self.weights_beside:
            onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
        else:
            onnx.save(model, path)
        return path

    def expected(self, luma: Array) -> Array:
        """Of uint8 luma [h, w], before rounding."""
        picture = luma / 255 * (self.white - self.black) + self.black
        planes = np.repeat(picture[None, None], self.channels, axis=1)
        planes = planes.transpose(0, 2, 3, 1) if self.last else planes
        feeds = {"in": planes.astype(np.float16 if self.half else np.float32)}
        found: Any = ReferenceEvaluator(self.proto()).run(None, feeds)
        made = np.asarray(found[0], np.float64)
        made = made.transpose(0, 3, 1, 2) if self.last else made
        gray = np.tensordot(_LUMA, made[0], 1) if self.channels == len(_LUMA) else made[0, 0]
        codes: Array = (gray - self.black) / (self.white - self.black) * 255
        return codes

    def _value(self, name: str, scale: int) -> onnx.ValueInfoProto:
        sides = [self.size * scale] * 2 if self.size else [f"{name}_height", f"{name}_width"]
        dims = ["batch", *sides, self.channels] if self.last else ["batch", self.channels, *sides]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT16 if self.half else TensorProto.FLOAT, dims)

    def _nodes(self) -> list[onnx.NodeProto]:
        make, x = helper.make_node, "in"
        nodes = []
        if self.last:
            nodes.append(make("Transpose", [x], ["first"], perm=[0, 3, 1, 2]))
            x = "first"
        if self.block > 1:
            nodes.append(make("SpaceToDepth", [x], ["blocks"], blocksize=self.block))
            nodes.append(make("DepthToSpace", ["blocks"], ["whole"], blocksize=self.block))
            x = "whole"
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes.append(make("Resize", [x, "roi", "scales"], ["large"], **nearest))
        nodes.append(make("Conv", ["large", "kernel", "bias"], ["sharp"], pads=[1, 1, 1, 1]))
        nodes.append(make("Clip", ["sharp", "black", "white"], ["clipped" if self.last else "out"]))
        if self.last:
            nodes.append(make("Transpose", ["clipped"], ["out"], perm=[0, 2, 3, 1]))
        return nodes
