"""`test:` — a moving picture that needs no file: detail, colour and motion in known places."""

from __future__ import annotations

import re
import time
from fractions import Fraction

import numpy as np

from streamer.color import BT709
from streamer.errors import UsageError
from streamer.frame import LIMITED, MAX_PIXELS, MAX_SIDE_PX, ColorSpec, Frame, Plane, VideoFormat
from streamer.pool import PlanePool
from streamer.stage import Media

_OPTIONS = re.compile(r"test:(?:(?P<width>\d+)x(?P<height>\d+))?(?:@(?P<rate>\d+(?:/\d+)?))?(?:,(?P<frames>\d+))?")


class PatternSource:
    """A zone plate that drifts over a colour wheel: `test:[WIDTHxHEIGHT][@RATE][,FRAMES]`.

    Default 640x360 at 30 Hz, 300 frames; 8-bit 4:2:0, BT.709, limited range. The same picture every time.
    """

    live = False
    notes: tuple[str, ...] = ()

    def __init__(self, url: str, *, start: Fraction = Fraction(0), duration: Fraction | None = None) -> None:
        match = _OPTIONS.fullmatch(url)
        if match is None:
            raise UsageError(f"can't read {url!r}: write test:[WIDTHxHEIGHT][@RATE][,FRAMES], e.g. test:640x360@30,300")
        width, height = int(match["width"] or 640), int(match["height"] or 360)
        try:
            rate = Fraction(match["rate"] or 30)
        except ZeroDivisionError:
            rate = Fraction(0)
        if not (
            16 <= width <= MAX_SIDE_PX
            and 16 <= height <= MAX_SIDE_PX
            and width * height <= MAX_PIXELS
            and 0 < rate <= 1000
        ):
            raise UsageError(f"{url!r} is out of range: sides 16 to {MAX_SIDE_PX}, rate up to 1000")
        color = ColorSpec(BT709, BT709, BT709, LIMITED, "left")
        self._format = VideoFormat(width, height, "yuv420p", color, Fraction(1), rate)
        self._first = int(start * rate)
        self._end = int(match["frames"] or 300)
        if duration is not None:
            self._end = min(self._end, self._first + max(1, round(duration * rate)))
        self._index = 0
        self._stopped = False
        self._pool = PlanePool()

    @property
    def format(self) -> VideoFormat:
        return self._format

    @property
    def media(self) -> Media:
        return Media()

    @property
    def frames_total(self) -> int | None:
        return max(0, self._end - self._first)

    @property
    def counts(self) -> dict[str, int]:
        return {}

    def open(self) -> None:
        """Draws the still parts once."""
        y, x = np.mgrid[: self._format.height, : self._format.width].astype(np.float32)
        radius2 = (x - x.mean()) ** 2 + (y - y.mean()) ** 2
        self._phase = radius2 * np.float32(np.pi / (2 * self._format.width))

    def read(self) -> Frame | None:
        number = self._first + self._index
        if self._stopped or number >= self._end:
            return None
        frame = Frame(
            planes=self._draw(number),
            format=self._format,
            pts=self._index,
            time_base=1 / self._format.rate if self._format.rate else Fraction(1, 30),
            duration=1,
            index=self._index,
            captured_ns=time.monotonic_ns(),
        )
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._stopped = True

    def _draw(self, number: int) -> tuple[Plane, ...]:
        planes = self._pool.planes(self._format.layout, self._format.width, self._format.height)
        planes[0][...] = 126 + 80 * np.cos(self._phase - np.float32(0.2 * number))
        height, width = planes[1].shape
        planes[1][...] = (np.linspace(48, 208, width) + number).astype(np.int32) % 161 + 48
        planes[2][...] = np.linspace(48, 208, height)[:, None]
        for plane in planes:
            plane.flags.writeable = False
        return planes
