"""How coarsely a decoder says that a picture was quantised: FFmpeg's AVVideoEncParams."""

from __future__ import annotations

import struct

import numpy as np

from onnx_models.level import qp_of_step

EXPORT = {"export_side_data": "venc_params"}
"""Options of a decoder's context that make it tell; those that can't (HEVC, AV1, pictures) ignore them."""
SIDE_DATA = "VIDEO_ENC_PARAMS"
"""The name that PyAV gives to the type of side data."""

_H264, _MPEG = 1, 2
_LARGEST = 112
"""Of either scale: MPEG-2's coarsest step; H.264 ends at 51 + 6 * (14 - 8). Anything above is damage."""
_HEADER = struct.Struct("=I4xQQii")
"""AVVideoEncParams: number of blocks, offset of their table, size of a block, type, parameter of the frame."""
_BLOCK_SIZE = 20
"""AVVideoBlockParams: x, y, width, height, difference to the frame's parameter, all int32."""


def mean_qp(content: bytes, bits: int = 8) -> float | None:
    """The mean quantisation parameter in side data of type SIDE_DATA, over blocks by area, on H.264's 8-bit scale.

    H.264 counts from 6 * (bits - 8) below zero, so that a parameter means the same step in code values of its depth.
    MPEG-1, 2 and 4 tell the step itself; VP9 gives a number of another scale, which is left alone. Zeros don't count:
    H.264 uses them for blocks of plain samples, and with frame threads FFmpeg may export a picture before another
    thread has written its last blocks.

    Args:
        content: the side data's bytes (libavutil/video_enc_params.h).
        bits: of the picture's samples.

    Returns:
        None for other codecs, damaged content, and if no block counts.
    """
    if len(content) < _HEADER.size:
        return None
    blocks, offset, size, kind, base = _HEADER.unpack_from(content)
    if kind not in (_H264, _MPEG) or (blocks and (size < _BLOCK_SIZE or offset + blocks * size > len(content))):
        return None
    if not blocks:
        return _on_our_scale(base, kind, bits)
    table = np.ndarray((blocks, _BLOCK_SIZE // 4), np.int32, content, offset, (size, 4)).astype(np.float64)
    width, height, delta = table[:, 2:].T
    qp = base + delta
    areas = np.where((qp > 0) & (width > 0) & (height > 0), width * height, 0.0)
    whole = areas.sum()
    return _on_our_scale(float((qp * areas).sum() / whole), kind, bits) if whole > 0 else None


def _on_our_scale(qp: float, kind: int, bits: int) -> float | None:
    if not 0 < qp <= _LARGEST:
        return None
    return qp_of_step(qp) if kind == _MPEG else qp - 6.0 * (bits - 8)
