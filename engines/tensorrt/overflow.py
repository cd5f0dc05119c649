"""Which tensors of a model become too large for float16: found by running it in float32 on pictures that strain it.

ONNX Runtime and OpenVINO compute float16 models of a CPU in float32, so running the converted model would show nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..base import Array
from ..model import load_model, onnx_library
from ..openvino import OpenVINOEngine
from ..pixels import CONDITIONS, LUMA, PEAK, STRENGTH
from .fp16 import SAFE, VERSION, to_fp16

if TYPE_CHECKING:
    from onnx import ModelProto

    from .cache import PlanCache

LIMIT = float(np.finfo(np.float16).max) / 4
"""A quarter of the largest float16: other pictures may be worse, and sums are held in float16 on the way."""
_SIDE_PX = 240
"""A multiple of every block size that a network may ask for."""
_BLOCK_PX = 8
_SEED = 0


def half_precision(model: bytes, cache: PlanCache | None = None, frames: Sequence[Array] | None = None) -> bytes:
    """The 16-bit variant of a model, with what overflows left in float32.

    Args:
        model: an ONNX file's content, by the pixel contract.
        cache: remembers the answer for the next time.
        frames: as for `overflowing`.

    Raises:
        EngineError: as `load_model`, or OpenVINO can't run it.
    """
    digest = hashlib.sha256(model + str((VERSION, LIMIT)).encode()).hexdigest()
    side = f"overflow-{digest[:32]}"
    known = cache.load_side(side) if cache is not None and frames is None else b""
    if known:
        return to_fp16(model, json.loads(known))
    blocked = sorted(overflowing(model, frames))
    if cache is not None and frames is None:
        cache.store_side(side, json.dumps(blocked).encode())
    return to_fp16(model, blocked)


def overflowing(model: bytes, frames: Sequence[Array] | None = None) -> dict[str, float]:
    """Tensors whose values exceed `LIMIT`, with the largest value seen in each.

    Args:
        model: an ONNX file's content, by the pixel contract.
        frames: `luma` inputs of the model's dtype and one size; by default noise, and blocks of black and white.

    Raises:
        EngineError: as `load_model`, or OpenVINO can't run it.
    """
    proto = load_model(model)
    chosen = _expose(proto)
    if not chosen:
        return {}
    luma = list(frames) if frames is not None else list(_patterns(proto))
    peaks = dict.fromkeys(chosen, 0.0)
    with OpenVINOEngine(proto.SerializeToString(), {LUMA: luma[0].shape}, slots=1) as engine:
        scalars = [spec.name for spec in engine.inputs if spec.name in (STRENGTH, *CONDITIONS)]
        for frame in luma:
            for level in (0.0, 1.0):
                told = {name: np.full(1, 1.0 if name == STRENGTH else level, np.float32) for name in scalars}
                found = engine.collect(engine.submit({LUMA: frame, **told}))
                for name in chosen:
                    peaks[name] = max(peaks[name], float(np.abs(found[name]).max(initial=0)))
    return {name: peak for name, peak in peaks.items() if not peak <= LIMIT}  # not a number is too large, too


def _expose(proto: ModelProto) -> list[str]:
    """Make everything that could become float16 an output, too."""
    onnx = onnx_library()
    graph, types = proto.graph, onnx.TensorProto
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    floats = {value.name for value in inferred if value.type.tensor_type.elem_type == types.FLOAT}
    outputs = {value.name for value in graph.output}
    chosen = [name for node in graph.node if node.op_type in SAFE for name in node.output if name in floats]
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
    for name in chosen:
        if name not in outputs:
            dims = [f"{name}_{axis}" for axis in range(ranks[name])]
            graph.output.append(onnx.helper.make_tensor_value_info(name, types.FLOAT, dims))
    return chosen


def _patterns(proto: ModelProto) -> Iterator[Array]:
    onnx = onnx_library()
    luma = next(value for value in proto.graph.input if value.name == LUMA)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(luma.type.tensor_type.elem_type)
    peaks = [tensor for tensor in proto.graph.initializer if tensor.name == PEAK]
    peak = int(onnx.numpy_helper.to_array(peaks[0]).item()) if peaks else np.iinfo(np.uint8).max
    shape = (1, 1, _SIDE_PX, _SIDE_PX)
    yield np.random.default_rng(_SEED).integers(0, peak, shape, endpoint=True).astype(dtype)
    rows, columns = np.indices(shape[2:]) // _BLOCK_PX
    yield ((rows + columns) % 2 * peak).astype(dtype)[None, None]
