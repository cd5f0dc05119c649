"""How coarsely a decoder says that a picture was quantised."""

from __future__ import annotations

import av

from onnx_models.quantiser import EXPORT, SIDE_DATA, mean_qp
from streamer.convert import side_data

__all__ = ["EXPORT", "qp_of"]


def qp_of(picture: av.VideoFrame) -> float | None:
    """The mean quantisation parameter of a decoded picture on H.264's 8-bit scale; None if the decoder doesn't say.

    Decoders of H.264 and of MPEG-1, 2 and 4 do, if they were opened with EXPORT.
    """
    content = side_data(picture).get(SIDE_DATA)
    if content is None:
        return None
    return mean_qp(content, max(part.bits for part in picture.format.components))
