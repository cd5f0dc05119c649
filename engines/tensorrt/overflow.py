"""Which tensors of a model become too large for float16: found by running it in float32 on pictures that strain it.

ONNX Runtime and OpenVINO compute float16 models of a CPU in float32, so running the converted model would show nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..base import Array, EngineError
from ..model import load_model, onnx_library
from ..openvino import OpenVINOEngine
from ..pixels import CONDITIONS, LUMA, STRENGTH, peak_of
from ..request import CALIBRATED, CAREFUL
from .fp16 import SAFE, VERSION, end_layers, to_fp16

if TYPE_CHECKING:
    from onnx import ModelProto

    from .cache import PlanCache

LIMIT = float(np.finfo(np.float16).max) / 4
"""A quarter of the largest float16: other pictures may be worse, and sums are held in float16 on the way."""
NEAR = float(np.finfo(np.float16).max) / 64
"""For a network that gave damaged pictures in spite of `LIMIT`."""
_SIDE_PX = 192
"""A multiple of every block size that a network may ask for."""
_BLOCK_PX = 8
_SEED = 0


def half_precision(
    model: bytes,
    cache: PlanCache | None = None,
    frames: Sequence[Array] | None = None,
    *,
    islands: int | tuple[str, ...] = CALIBRATED,
) -> bytes:
    """The 16-bit variant of a model, with everything in float32 that overflows; see `to_fp16`.

    Args:
        model: an ONNX file's content, by the pixel contract.
        cache: remembers the values that were found for the next time.
        frames: as for `overflowing`.
        islands: CALIBRATED: no more than that. CAREFUL: also the first and the last convolution, and what comes within
            a sixty-fourth of float16's range. Or names of tensors: also what makes and what reads them.

    Raises:
        EngineError: as `load_model`; OpenVINO can't run it; a name that no tensor has which would become float16.
    """
    peaks = _known_peaks(model, cache, frames)
    blocked = set(_above(peaks, NEAR if islands == CAREFUL else LIMIT))
    if isinstance(islands, tuple):
        unknown = sorted(set(islands) - peaks.keys())
        if unknown:
            raise EngineError(
                f"cannot keep {', '.join(unknown)} in float32: no such tensors would become float16; "
                f"they are {', '.join(sorted(peaks))}"
            )
        blocked.update(islands)
    elif islands == CAREFUL:
        blocked.update(end_layers(model))
    return to_fp16(model, blocked)


def _known_peaks(model: bytes, cache: PlanCache | None, frames: Sequence[Array] | None) -> dict[str, float]:
    if cache is None or frames is not None:
        return _peaks(model, frames)
    side = f"peaks-{hashlib.sha256(model + str(VERSION).encode()).hexdigest()[:32]}"
    known = cache.load_side(side)
    if known:
        found: dict[str, float] = json.loads(known)
        return found
    found = _peaks(model, None)
    cache.store_side(side, json.dumps(found).encode())
    return found


def _above(peaks: dict[str, float], limit: float) -> dict[str, float]:
    return {name: peak for name, peak in peaks.items() if not peak <= limit}  # not a number is too large, too


def overflowing(model: bytes, frames: Sequence[Array] | None = None) -> dict[str, float]:
    """Tensors whose values exceed `LIMIT`, with the largest value seen in each.

    Args:
        model: an ONNX file's content, by the pixel contract.
        frames: `luma` inputs of the model's dtype and one size; by default noise, and blocks of black and white.

    Raises:
        EngineError: as `load_model`, or OpenVINO can't run it.
    """
    return _above(_peaks(model, frames), LIMIT)


def _peaks(model: bytes, frames: Sequence[Array] | None) -> dict[str, float]:
    """The largest value in each tensor that could become float16."""
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
                    # Unlike max, NumPy's keeps what is not a number.
                    peaks[name] = float(np.maximum(peaks[name], np.abs(found[name]).max(initial=0)))
    return peaks


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
    luma = next(value for value in proto.graph.input if value.name == LUMA)
    dtype = onnx_library().helper.tensor_dtype_to_np_dtype(luma.type.tensor_type.elem_type)
    peak = int(peak_of(proto))
    shape = (1, 1, _SIDE_PX, _SIDE_PX)
    yield np.random.default_rng(_SEED).integers(0, peak, shape, endpoint=True).astype(dtype)
    rows, columns = np.indices(shape[2:]) // _BLOCK_PX
    yield ((rows + columns) % 2 * peak).astype(dtype)[None, None]
