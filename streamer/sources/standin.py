"""What a live source shows while it has nothing: its last picture, dimmed, with a line of text."""

from __future__ import annotations

import numpy as np

from streamer.frame import Plane, VideoFormat
from streamer.pool import PlanePool
from streamer.sources.letterbox import black

_TEXT = "no signal, reconnecting ..."
_TEXT_WIDTH = 0.8
"""Of the picture's width."""


def prepare() -> None:
    """Loads what `dimmed` needs, which takes too long in the middle of a stream."""
    import cv2  # noqa: F401  # loaded for later


def dimmed(planes: tuple[Plane, ...], format: VideoFormat, pool: PlanePool) -> tuple[Plane, ...]:
    """`planes` at half their brightness and colour, and what is wrong in the middle; read-only, from `pool`."""
    made = pool.planes(format.layout, format.width, format.height)
    for target, samples, zero in zip(made, planes, black(format), strict=True):
        np.right_shift(samples, 1, out=target)
        target += target.dtype.type(zero - (zero >> 1))
    _write(made[0], _TEXT, format)
    for plane in made:
        plane.flags.writeable = False
    return made


def _write(luma: Plane, text: str, format: VideoFormat) -> None:
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), _ = cv2.getTextSize(text, font, 1.0, 2)
    height_px, width_px = luma.shape
    scale = min(_TEXT_WIDTH * width_px / width, height_px / 8 / height, 2.0)
    thickness = max(1, round(2 * scale))
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    where = ((width_px - width) // 2, (height_px + height) // 2)
    white = 235 << (format.layout.bits - 8)
    ink = np.zeros(luma.shape, np.uint8)  # OpenCV 5 writes into 8-bit pictures only
    cv2.putText(ink, text, where, font, scale, (255,), thickness, cv2.LINE_AA)
    touched = ink.nonzero()
    under = luma[touched].astype(np.int32)
    luma[touched] = under + (white - under) * ink[touched] // 255
