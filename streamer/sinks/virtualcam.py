"""`virtualcam:` — a camera that other programs see, through pyvirtualcam.

Linux has it with the v4l2loopback module, Windows and macOS with OBS.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.color import BT601, explicit, range_of
from streamer.convert import rgb_of
from streamer.errors import SinkError, reason_of
from streamer.frame import LIMITED, Frame, VideoFormat
from streamer.notes import Notes
from streamer.sinks.upright import displayed_size, upright
from streamer.stage import Media

log = logging.getLogger(__name__)

PREFIX = "virtualcam:"
_DEFAULT_RATE = 30.0
_HINT = (
    "on Linux load the device with `modprobe v4l2loopback exclusive_caps=1`, on Windows and macOS install OBS and "
    "start its virtual camera once"
)


class VirtualCameraSink:
    """Shows every frame to programs that look at a virtual camera: `virtualcam:[DEVICE]`.

    Programs take such a camera's pictures as 8-bit 4:2:0 in BT.601 and limited range. Frames that are so already go
    there as they are; others are converted to RGB by their own matrix and range, and to that by pyvirtualcam. Pictures
    stand upright and in square pixels; odd sides are made even. Frames are shown when they come; for live sources that
    is their time. Raises SinkError.
    """

    def __init__(self, url: str) -> None:
        if importlib.util.find_spec("pyvirtualcam") is None:
            raise SinkError(f"{url} needs the virtualcam extra: pip install 'streamer-enhancer[virtualcam]'")
        self.name = url
        self.notes = Notes(url)
        self.counts: dict[str, int] = {}
        self._device = url.removeprefix(PREFIX) or None
        self._camera: Any = None

    def open(self, format: VideoFormat, media: Media) -> None:
        import pyvirtualcam

        self._format = explicit(format)
        width, height = displayed_size(format)
        self._size = max(2, width & ~1), max(2, height & ~1)
        is_upright = not format.rotation and self._size == (format.width, format.height)
        self._as_is = is_upright and _is_i420(self._format)
        layout = pyvirtualcam.PixelFormat.I420 if self._as_is else pyvirtualcam.PixelFormat.RGB
        rate = float(format.rate) if format.rate else _DEFAULT_RATE
        try:
            self._camera = pyvirtualcam.Camera(*self._size, rate, fmt=layout, device=self._device)
        except RuntimeError as error:
            raise SinkError(f"can't open {self.name}: {reason_of(error)}; {_HINT}") from error
        log.info("other programs see %s as %s, %dx%d", self.name, self._camera.device, *self._size)

    def write(self, frame: Frame) -> None:
        try:
            self._camera.send(self._picture(frame))
        except RuntimeError as error:
            raise SinkError(f"can't write to {self.name}: {reason_of(error)}; is the device still there?") from error

    def close(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def abort(self) -> None:
        self.close()

    def _picture(self, frame: Frame) -> npt.NDArray[np.uint8]:
        if self._as_is:
            return np.concatenate([plane.reshape(-1) for plane in frame.planes])
        return rgb_of(*upright(replace(frame, format=self._format)), *self._size)


def _is_i420(format: VideoFormat) -> bool:
    color = format.color
    return format.pix_fmt == "yuv420p" and color.matrix == BT601 and range_of(color) == LIMITED
