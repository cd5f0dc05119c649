"""How coarsely a decoder says that a picture was quantised."""

from __future__ import annotations

import struct

import av
import numpy as np

from onnx_models.level import qp_of_step
from streamer.convert import side_data

EXPORT = {"export_side_data": "venc_params"}
"""Options of a decoder's context that make it tell; those that can't (HEVC, AV1, pictures) ignore them."""

_H264, _MPEG2 = 1, 2
_LARGEST = 112
"""Of either scale: MPEG-2's coarsest step; H.264 ends at 51 + 6 * (14 - 8). Anything above is damage."""
_HEADER = struct.Struct("=I4xQQii")  # AVVideoEncParams: blocks, offset and size of their table, type, qp
_BLOCK_BYTES = 20  # AVVideoBlockParams: x, y, width, height, delta_qp, all int32


def qp_of(picture: av.VideoFrame) -> float | None:
    """The mean quantisation parameter of a decoded picture on H.264's 8-bit scale; None if the decoder doesn't say.

    Decoders of H.264 and of MPEG-1, 2 and 4 do, those of VP9 give a number of another scale, which is left alone.
    """
    data = side_data(picture).get("VIDEO_ENC_PARAMS")
    if data is None:
        return None
    bits = max(part.bits for part in picture.format.components)
    return mean_qp(data, bits)


def mean_qp(data: bytes, bits: int = 8) -> float | None:
    """The mean over blocks, by area, of FFmpeg's AVVideoEncParams with samples of `bits` bits; None if it has none.

    H.264 counts from 6 * (bits - 8) below zero, so that a parameter means the same step in code values of its depth.
    MPEG's is the step itself. Zeros don't count: H.264 uses them for blocks of plain samples, and with frame threads
    FFmpeg may export a picture before another thread has written its last blocks.
    """
    if len(data) < _HEADER.size:
        return None
    count, offset, size, kind, base = _HEADER.unpack_from(data)
    if kind not in (_H264, _MPEG2) or (count and (size < _BLOCK_BYTES or offset + count * size > len(data))):
        return None
    if not count:
        return _on_our_scale(base, kind, bits)
    table = np.ndarray((count, _BLOCK_BYTES // 4), np.int32, data, offset, (size, 4)).astype(np.float64)
    width, height, delta = table[:, 2:].T
    qp = base + delta
    areas = np.where((qp > 0) & (width > 0) & (height > 0), width * height, 0.0)
    whole = areas.sum()
    return _on_our_scale(float((qp * areas).sum() / whole), kind, bits) if whole > 0 else None


def _on_our_scale(qp: float, kind: int, bits: int) -> float | None:
    if not 0 < qp <= _LARGEST:
        return None
    return qp_of_step(qp) if kind == _MPEG2 else qp - 6.0 * (bits - 8)
