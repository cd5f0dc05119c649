"""What is shown while a live input has nothing to show."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.pool import PlanePool
from streamer.sources.standin import dimmed
from tests.clips import make_frame


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p16le"])
def test_every_depth_is_dimmed_under_white_text(pix_fmt: str) -> None:
    frame = make_frame(pix_fmt, 160, 90)
    planes = dimmed(frame.planes, frame.format, PlanePool())
    bits = frame.format.layout.bits
    luma, peak = planes[0], 1 << bits
    outside = np.r_[0:30, 60:90]
    assert luma[40:50].max() >= 230 << (bits - 8)
    assert luma[outside].max() <= peak // 2 + (16 << (bits - 8))
    for plane, original in zip(planes[1:], frame.planes[1:], strict=True):
        middle = 1 << (bits - 1)
        shown, before = plane.astype(int) - middle, original.astype(int) - middle
        assert np.abs(shown - before / 2).max() <= 1
    assert all(plane.dtype == original.dtype for plane, original in zip(planes, frame.planes, strict=True))
    assert not any(plane.flags.writeable for plane in planes)
