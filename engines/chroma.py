"""Chroma beside luma in one model: U and V go up with it, are enlarged on the same device, and come down with it.

    u, v [1,1,h,w] -> Cast -> Concat over the batch [2,1,h,w] -> Pad (the edge's samples)
      -> Conv: s phases of rows -> Round -> Clip [2,s,h,w]
      -> Conv: of each of them, s phases of columns -> Round -> Clip [2,s*s,h,w]
      -> DepthToSpace [2,1,s*h,s*w] -> Split -> Cast -> u_enhanced, v_enhanced [1,1,s*h,s*w]

A separable polyphase filter, whose taps are the caller's. All of it is float32, also in a model whose network is
float16: chroma is added after the conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import EngineError
from .model import load_model, onnx_library
from .pixels import LUMA, peak_of

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

U, V = "u", "v"
U_ENHANCED, V_ENHANCED = "u_enhanced", "v_enhanced"
_PREFIX = "chroma_"

Taps = tuple[tuple[float, ...], int]
"""The weights of one output phase, and the index of the one that falls on the sample itself."""


@dataclass(frozen=True, slots=True)
class ChromaFilter:
    """How chroma planes are enlarged: one set of taps for each of the `scale` output phases, on both axes.

    Output sample scale*n + k of an axis is the sum of `weights[j]` times input sample n + j - anchor, with
    (weights, anchor) = phase k's taps. Samples beyond an edge are those of the edge. After each axis, rows first, the
    sum is rounded to the nearest whole code (halves to even).
    """

    log2_w: int
    """How much narrower than luma chroma is, as a power of two."""
    log2_h: int
    """How much lower."""
    rows: tuple[Taps, ...]
    columns: tuple[Taps, ...]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> ChromaFilter:
        """From what `dataclasses.asdict` and JSON made of one."""

        def taps(given: Sequence[Any]) -> tuple[Taps, ...]:
            return tuple((tuple(weights), anchor) for weights, anchor in given)

        return cls(found["log2_w"], found["log2_h"], taps(found["rows"]), taps(found["columns"]))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the chroma planes of such a luma plane; odd sizes round up."""
        return -(-height >> self.log2_h), -(-width >> self.log2_w)


def with_chroma(model: Path | bytes, filter: ChromaFilter) -> bytes:
    """A luma model that takes `u` and `v` too, and gives `u_enhanced` and `v_enhanced`, all in the type of `luma`.

    Their height and width are dimensions of their own, so that the planes of odd luma sizes fit; the results are
    `scale` times as large, to be cropped then.

    Args:
        model: an ONNX file or its content, by the pixel contract, for any depth and in any precision.
        filter: for both planes.

    Raises:
        EngineError: as `load_model`; it takes chroma already, or is not by the contract.
    """
    onnx = onnx_library()
    proto = load_model(model)
    inputs = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    if LUMA not in inputs or U in inputs:
        raise EngineError(f"cannot add chroma to a model whose inputs are {sorted(inputs)}: it must take luma alone")
    if len(filter.rows) != len(filter.columns):
        raise EngineError(
            f"cannot enlarge chroma by {len(filter.rows)} rows and {len(filter.columns)} columns: use one scale"
        )
    _Chroma(proto, filter, inputs[LUMA]).add()
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


class _Chroma:
    """Adds the nodes."""

    def __init__(self, proto: ModelProto, filter: ChromaFilter, dtype: int) -> None:
        self._graph, self._filter, self._dtype = proto.graph, filter, dtype
        self._scale = len(filter.rows)
        self._peak = peak_of(proto)

    def add(self) -> None:
        make, types = onnx_library().helper.make_tensor_value_info, onnx_library().TensorProto
        height, width, s = f"{_PREFIX}height", f"{_PREFIX}width", self._scale
        for name in (U, V):
            self._graph.input.append(make(name, self._dtype, [1, 1, height, width]))
            self._graph.output.append(make(f"{name}_enhanced", self._dtype, [1, 1, f"{s}*{height}", f"{s}*{width}"]))
        for name in (U, V):
            self._node("Cast", [name], f"{name}_codes", to=types.FLOAT)
        self._node("Concat", [self._named(f"{name}_codes") for name in (U, V)], "planes", axis=0)
        rows, above, below = _kernel(self._filter.rows)
        columns, left, right = _kernel(self._filter.columns)
        pads = self._constant("pads", np.array([0, 0, above, left, 0, 0, below, right], np.int64))
        self._node("Pad", [self._named("planes"), pads], "padded", mode="edge")
        # Between the axes cv2, whose results these are, keeps what its type holds; only the end is cut to the depth.
        self._pass("padded", "rows", rows[:, None, :, None], 1, 255.0 if self._peak == 255 else 65535.0)
        across = np.tile(columns[:, None, None, :], (s, 1, 1, 1))
        self._pass("rows", "columns", across, s, self._peak)
        self._node("DepthToSpace", [self._named("columns")], "enhanced", blocksize=s, mode="CRD")
        # TensorRT has uint8 at a network's ends only, so the planes are parted before they are cast.
        parts = [self._named(f"{name}_enhanced") for name in (U, V)]
        halves = self._constant("halves", np.array([1, 1], np.int64))
        self._add("Split", [self._named("enhanced"), halves], parts, axis=0)
        for part, name in zip(parts, (U_ENHANCED, V_ENHANCED), strict=True):
            self._add("Cast", [part], [name], to=self._dtype)

    def _pass(self, source: str, target: str, kernel: Any, group: int, peak: float) -> None:
        """One axis: filtered, rounded, and kept within 0 and `peak`."""
        weights = self._constant(f"{target}_taps", kernel)
        self._node("Conv", [self._named(source), weights], f"{target}_sums", group=group)
        self._node("Round", [self._named(f"{target}_sums")], f"{target}_rounded")
        ends = {"floor": 0.0, "ceiling": peak}
        limits = [self._constant(f"{target}_{name}", np.array(value, np.float32)) for name, value in ends.items()]
        self._node("Clip", [self._named(f"{target}_rounded"), *limits], target)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._add(kind, inputs, [self._named(output)], **attributes)

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        make = onnx_library().helper.make_node
        self._graph.node.append(make(kind, inputs, outputs, name=f"{outputs[0]}_made", **attributes))

    def _constant(self, name: str, value: Any) -> str:
        self._graph.initializer.append(onnx_library().numpy_helper.from_array(value, self._named(name)))
        return self._named(name)

    @staticmethod
    def _named(name: str) -> str:
        return _PREFIX + name


def _kernel(phases: Sequence[Taps]) -> tuple[Any, int, int]:
    """Float32 [phases, width] that reads the same samples for every phase, and how many of them lie before and after
    the one in the middle."""
    before = max(0, *(anchor for _, anchor in phases))
    after = max(0, *(len(weights) - 1 - anchor for weights, anchor in phases))
    kernel = np.zeros((len(phases), before + 1 + after), np.float32)
    for row, (weights, anchor) in zip(kernel, phases, strict=True):
        row[before - anchor : before - anchor + len(weights)] = weights
    return kernel, before, after
