"""Chroma follows luma to another size: at its siting, exactly; and untagged video is read as everybody reads it."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.color import BT601, BT709, ChromaScaler, matrix_of, siting_of
from streamer.frame import ColorSpec, VideoFormat, layout_of

SITINGS = ["left", "center", "topleft", "top", "bottomleft", "bottom"]


def ramp_error(pix_fmt: str, location: str, scale: int, axis: int) -> float:
    """How far, in luma pixels of the output, a linear ramp of chroma has moved against luma."""
    layout = layout_of(pix_fmt)
    assert layout is not None
    color = ColorSpec(chroma_location=location)
    block = 1 << (layout.log2_chroma_w if axis else layout.log2_chroma_h)
    offset = siting_of(color)[0 if axis else 1] if block > 1 else 0.0
    # Value = 1000 x luma position: at chroma sample k the position is block·k + offset.
    source = np.zeros(layout.shapes(64, 64)[1], np.uint16)
    values = 1000 * (block * np.arange(source.shape[axis]) + offset)
    source[...] = values if axis else values[:, None]
    target = np.zeros(layout.shapes(64 * scale, 64 * scale)[1], np.uint16)
    ChromaScaler(layout, color, scale).resample(source, target)
    line = (target[16] if axis else target[:, 16]).astype(float) / 1000
    # In the output that luma position is scale·(position + 0.5) - 0.5.
    found = scale * (line + 0.5) - 0.5
    expected = block * np.arange(len(found)) + offset
    inner = slice(4 * scale, -4 * scale)
    return float(np.abs(found - expected)[inner].max())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("location", SITINGS)
@pytest.mark.parametrize("pix_fmt", ["yuv420p16le", "yuv422p16le", "yuv444p16le"])
def test_a_ramp_stays_where_it_was(pix_fmt: str, location: str, scale: int, axis: int) -> None:
    assert ramp_error(pix_fmt, location, scale, axis) < 0.01


def test_a_centred_resize_would_have_moved_left_sited_chroma() -> None:
    layout = layout_of("yuv420p16le")
    assert layout is not None
    source = np.tile((1000 * 2 * np.arange(32)).astype(np.uint16), (32, 1))
    target = np.zeros((64, 64), np.uint16)
    ChromaScaler(layout, ColorSpec(chroma_location="center"), 2).resample(source, target)
    left = np.zeros((64, 64), np.uint16)
    ChromaScaler(layout, ColorSpec(chroma_location="left"), 2).resample(source, left)
    moved = (left.astype(float) - target)[32, 20:40] / 1000
    assert np.allclose(moved, 0.25, atol=0.01)  # a quarter of an input pixel, half an output pixel


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv420p16le"])
def test_edges_overshoot_no_further_than_the_code_range(pix_fmt: str) -> None:
    layout = layout_of(pix_fmt)
    assert layout is not None
    peak = (1 << layout.bits) - 1
    source = np.zeros((16, 16), layout.dtype)
    source[:, 8:] = peak
    target = np.full((32, 32), 77, layout.dtype)
    ChromaScaler(layout, ColorSpec(), 2).resample(source, target)
    assert target.max() == peak
    assert target.min() == 0


def test_scale_one_changes_nothing() -> None:
    layout = layout_of("yuv420p")
    assert layout is not None
    source = np.random.default_rng(0).integers(0, 256, (17, 23)).astype(np.uint8)
    target = np.zeros_like(source)
    ChromaScaler(layout, ColorSpec(), 1).resample(source, target)
    assert np.array_equal(source, target)


def test_untagged_video_is_hd_or_sd_by_its_height() -> None:
    assert matrix_of(VideoFormat(1280, 720, "yuv420p")) == BT709
    assert matrix_of(VideoFormat(720, 576, "yuv420p")) == BT601
    assert matrix_of(VideoFormat(64, 64, "yuv420p", ColorSpec(matrix=9))) == 9
