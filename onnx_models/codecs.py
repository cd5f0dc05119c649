"""Short sequences through real video codecs and back, and how coarsely each one quantised.

The quantiser is given as the H.264 quantisation parameter with the same step (see `onnx_models.level`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import TYPE_CHECKING, Any

import av
import av.error
import cv2
import numpy as np

from onnx_models.errors import TrainingError
from onnx_models.level import qp_of_step
from onnx_models.quantiser import EXPORT, SIDE_DATA, mean_qp

if TYPE_CHECKING:
    from onnx_models.scenes import Planes

CODECS = ("h264", "hevc", "mpeg2", "vp9", "jpeg")
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "mpeg2": "mpeg2video", "vp9": "libvpx-vp9"}
_DECODERS = {"h264": "h264", "hevc": "hevc", "mpeg2": "mpeg2video", "vp9": "vp9"}


@dataclass(frozen=True)
class Coding:
    """One way to compress a sequence."""

    codec: str = "h264"
    quality: int = 23
    """h264: CRF; hevc: QP; mpeg2: quantiser scale 1..31; vp9: quantiser 0..63; jpeg: quality 1..100."""
    preset: str = "veryfast"
    """Of h264 and hevc."""
    zerolatency: bool = False
    """h264: no look-ahead and no B-frames."""
    keyint: int = 250
    """Longest distance of key frames."""


@dataclass(frozen=True)
class Decoded:
    """What came out of a codec."""

    sequence: list[Planes]
    qp: float
    """Mean over the blocks of all frames, as an H.264 quantisation parameter."""
    size_bytes: int


def transcode(sequence: Sequence[Planes], coding: Coding) -> Decoded:
    """A sequence, compressed and decoded.

    Args:
        sequence: yuv420p planes, uint8, all of one size with even sides.
        coding: how.

    Raises:
        TrainingError: this PyAV lacks the encoder, or frames were lost.
    """
    if coding.codec == "jpeg":
        return _through_jpeg(sequence, coding.quality)
    packets = _encode(sequence, coding)
    decoder: Any = av.CodecContext.create(_DECODERS[coding.codec], "r")
    decoder.thread_count = 1
    decoder.options = EXPORT
    frames = [f for p in packets for f in decoder.decode(av.Packet(bytes(p)))]
    frames += decoder.decode(None)
    if len(frames) != len(sequence):
        raise TrainingError(f"{_ENCODERS[coding.codec]} returned {len(frames)} of {len(sequence)} frames")
    return Decoded([planes_of(f) for f in frames], _qp(frames, coding), sum(p.size for p in packets))


def _encode(sequence: Sequence[Planes], coding: Coding) -> list[Any]:
    name = _ENCODERS[coding.codec]
    height, width = sequence[0][0].shape
    try:
        encoder: Any = av.CodecContext.create(name, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise TrainingError(f"this PyAV build has no {name}; install the PyPI wheel") from error
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.thread_count = 1
    encoder.options = _options(coding)
    packets: list[Any] = []
    for i, planes in enumerate(sequence):
        stacked = np.concatenate([plane.reshape(-1) for plane in planes])
        frame = av.VideoFrame.from_ndarray(stacked.reshape(-1, width), format="yuv420p")
        frame.pts, frame.time_base = i, encoder.time_base
        packets += encoder.encode(frame)
    return [*packets, *encoder.encode(None)]


def _options(coding: Coding) -> dict[str, str]:
    quality, keyint = str(coding.quality), str(coding.keyint)
    if coding.codec == "h264":
        options = {"crf": quality, "preset": coding.preset, "g": keyint, "threads": "1"}
        return options | ({"tune": "zerolatency"} if coding.zerolatency else {})
    if coding.codec == "hevc":  # one QP in all kinds of frames, because its decoder doesn't tell
        quiet = "log-level=none:pools=none:frame-threads=1:wpp=0"
        return {
            "preset": coding.preset,
            "x265-params": f"qp={quality}:ipratio=1:pbratio=1:keyint={keyint}:{quiet}",
        }
    if coding.codec == "mpeg2":
        return {"qmin": quality, "qmax": quality, "g": keyint, "bf": "2"}
    return {"deadline": "realtime", "cpu-used": "7", "crf": quality, "qmin": quality, "qmax": quality, "g": keyint}


def planes_of(frame: av.VideoFrame) -> Planes:
    """A decoded frame with even sides as 8-bit 4:2:0 planes."""
    stacked = np.asarray(frame.to_ndarray(format="yuv420p"), np.uint8)
    height, width = frame.height, frame.width
    chroma = stacked[height:].reshape(2, height // 2, width // 2)
    return np.ascontiguousarray(stacked[:height]), chroma[0], chroma[1]


def _qp(frames: list[av.VideoFrame], coding: Coding) -> float:
    if coding.codec == "hevc":
        return float(coding.quality)
    if coding.codec == "vp9":
        return qp_of_step(_vp9_step(coding.quality))
    told = [qp for frame in frames if (qp := qp_of_frame(frame)) is not None]
    if not told:
        raise TrainingError(f"the {coding.codec} decoder of this PyAV build doesn't tell its quantiser")
    return fmean(told)


def qp_of_frame(frame: av.VideoFrame) -> float | None:
    """Mean quantisation parameter of a decoded frame's blocks; None if its decoder didn't export it."""
    side_data: Any = frame.side_data
    for i in range(len(side_data)):
        entry = side_data[i]
        if entry.type.name == SIDE_DATA:
            return mean_qp(bytes(entry))
    return None


def _vp9_step(quality: int) -> float:
    """The step of a VP9 quantiser 0..63 in code values.

    The encoder maps it to an index 0..255 about linearly; the step of an index is the specification's table for AC
    coefficients (VP9 bitstream specification 0.6, section 8.6.1) over 8: linear up to 102, then growing by 1.8 %.
    """
    index = quality * 255 / 63
    return (index + 7 if index < 95 else 102 * 1.0182 ** (index - 95)) / 8


_JPEG_STEPS = (
    *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19),
    *(24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51),
)
"""The lower half of the luminance table's frequencies (ITU-T T.81, table K.1), in zigzag order."""


def _jpeg_step(quality: int) -> float:
    """The mean step of the lower frequencies, where most of a picture is, by libjpeg's quality."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return max(1.0, fmean(_JPEG_STEPS) * percent / 100)


def _through_jpeg(sequence: Sequence[Planes], quality: int) -> Decoded:
    """Luma through JPEG, frame by frame, as in MJPEG cameras; chroma stays."""
    decoded, size = [], 0
    for luma, u, v in sequence:
        written: tuple[bool, Any] = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, quality])
        size += written[1].size
        decoded.append((np.asarray(cv2.imdecode(written[1], cv2.IMREAD_GRAYSCALE), np.uint8), u, v))
    return Decoded(decoded, qp_of_step(_jpeg_step(quality)), size)
