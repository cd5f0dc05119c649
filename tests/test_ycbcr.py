"""Colours in numbers: Y'CbCr and R'G'B', between pictures and in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

import streamer
from streamer import ycbcr
from streamer.color import siting_of
from streamer.convert import fill_picture
from streamer.frame import FULL, LIMITED, ColorSpec, VideoFormat
from tests.clips import decoded, palette_picture, planes, write_picture

if TYPE_CHECKING:
    from pathlib import Path


def noise(pix_fmt: str) -> av.VideoFrame:
    """RGB of every colour, a quarter of it white or gray, 64 x 64."""
    deep = pix_fmt == "rgb48be"
    peak = 65535 if deep else 255
    rgb: Any = np.random.default_rng(0).integers(0, peak + 1, (64, 64, 3)).astype(np.uint16 if deep else np.uint8)
    rgb[:8], rgb[8:16] = peak, peak // 2 + 1
    if pix_fmt == "pal8":
        return palette_picture(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64), rgb.reshape(-1, 3)[::16])
    return av.VideoFrame.from_ndarray(rgb, "rgb48le" if deep else "rgb24").reformat(format=pix_fmt)


@pytest.mark.parametrize("pix_fmt", ["rgb24", "rgb48be", "pal8"])
def test_rgb_pictures_keep_their_colours(tmp_path: Path, pix_fmt: str) -> None:
    write_picture(tmp_path / "in.png", noise(pix_fmt))
    streamer.enhance(tmp_path / "in.png", tmp_path / "out.png", model="none")
    compared = "rgb48le" if pix_fmt == "rgb48be" else "rgb24"
    before, after = (
        decoded(tmp_path / name)[0].reformat(format=compared).to_ndarray().astype(int) for name in ("in.png", "out.png")
    )
    assert np.abs((after - before).mean(axis=(0, 1))).max() < 0.2
    assert np.abs(after - before).max() <= 2
    gray = np.ptp(before, axis=2) == 0
    assert gray.mean() > 0.2
    np.testing.assert_array_equal(after[gray], before[gray])


@pytest.mark.parametrize("model", ["none", "upscale-x2-nano"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_gray_stays_gray_in_a_jpeg(tmp_path: Path, suffix: str, model: str) -> None:
    picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), "rgb24")
    if suffix == ".jpg":
        picture = av.VideoFrame(32, 32, "yuvj444p")
        fill_picture(picture, [np.full((32, 32), 128, np.uint8)] * 3)
    write_picture(tmp_path / f"in{suffix}", picture)
    streamer.enhance(tmp_path / f"in{suffix}", tmp_path / "out.jpg", model=model)
    assert [plane[0, 0] for plane in planes(decoded(tmp_path / "out.jpg")[0])] == [128, 128, 128]


@pytest.mark.parametrize(
    ("siting", "pix_fmt"),
    [("left", "yuv420p10le"), ("topleft", "yuv420p10le"), ("center", "yuv420p10le"), ("left", "yuv422p10le")],
)
def test_chroma_lies_where_its_siting_says(tmp_path: Path, siting: str, pix_fmt: str) -> None:
    """Cr rises with the place along both axes, so a picture whose chroma has moved is too red or not red enough."""
    color = ColorSpec(1, 1, 1, LIMITED, siting)
    format = VideoFormat(64, 64, pix_fmt, color)
    x, y = siting_of(color)
    rows, columns = format.layout.shapes(64, 64)[1]
    row, column = np.mgrid[:rows, :columns]
    down, across = 64 // rows, 64 // columns
    red = 300 + 2 * (across * column + x) + 4 * (down * row + (y if down > 1 else 0))
    flat = np.full((64, 64), 500, np.uint16), np.full((rows, columns), 512, np.uint16)
    rgb = ycbcr.to_rgb((*flat, np.rint(red).astype(np.uint16)), format, 16).astype(float)
    row, column = np.mgrid[:64, :64]
    level = (300 + 2 * column + 4 * row - 512) / 896
    wanted = ((500 - 64) / 876 + 1.5748 * level) * 65535
    assert np.abs(rgb[..., 0] - wanted)[8:-8, 8:-8].max() < 65535 * 1.5748 / 896 * 0.6  # codes are whole


@pytest.mark.parametrize("siting", ["left", "topleft"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_bands_leave_no_trace(monkeypatch: pytest.MonkeyPatch, pix_fmt: str, siting: str) -> None:
    first = VideoFormat(33, 101, pix_fmt, ColorSpec(1, 1, 1, LIMITED, siting))
    second = VideoFormat(33, 101, "yuv420p", ColorSpec(6, 6, 6, FULL, "center"))
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, shape).astype(np.uint8) for shape in first.layout.shapes(33, 101)]
    results = []
    for rows in (16, 256):
        monkeypatch.setattr(ycbcr, "_BAND_ROWS", rows)
        rgb = ycbcr.to_rgb(planes, first, 16)
        results.append([rgb, *ycbcr.from_rgb(rgb, second, 16), *ycbcr.converted(planes, first, second)])
    for banded, whole in zip(*results, strict=True):
        np.testing.assert_array_equal(banded, whole)


def test_codes_of_colours_by_hand() -> None:
    """ITU-R BT.709-6 and H.273: white, black, and red of 8 and 10 bits, limited and full."""
    rgb = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8)
    for pix_fmt, code_range, wanted in (
        ("yuv444p", LIMITED, ([235, 16, 63], [128, 128, 102], [128, 128, 240])),
        ("yuv444p10le", LIMITED, ([940, 64, 250], [512, 512, 409], [512, 512, 960])),
        ("yuv444p", FULL, ([255, 0, 54], [128, 128, 99], [128, 128, 255])),
    ):
        format = VideoFormat(3, 1, pix_fmt, ColorSpec(1, 1, 1, code_range))
        planes = ycbcr.from_rgb(rgb, format, 8)
        assert tuple(plane[0].tolist() for plane in planes) == wanted
        np.testing.assert_array_equal(ycbcr.to_rgb(planes, format, 8)[0, :2], rgb[0, :2])
        assert np.abs(ycbcr.to_rgb(planes, format, 8).astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_another_matrix_and_range_and_back(siting: str) -> None:
    """Chroma that changes evenly, so that what is averaged away is nothing."""
    first = VideoFormat(64, 48, "yuv420p", ColorSpec(1, 1, 1, LIMITED, siting))
    second = VideoFormat(64, 48, "yuv420p", ColorSpec(6, 6, 6, FULL, "center"))
    row, column = np.mgrid[:24, :32]
    planes = np.full((48, 64), 110, np.uint8), (100 + column).astype(np.uint8), (120 + row).astype(np.uint8)
    there = ycbcr.converted(planes, first, second)
    assert [plane.shape for plane in there] == [(48, 64), (24, 32), (24, 32)]
    back = ycbcr.converted(there, second, first)
    for before, after in zip(planes, back, strict=True):
        assert np.abs(before.astype(int) - after)[2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("code_range", [LIMITED, FULL])
@pytest.mark.parametrize(
    ("gray", "name", "pix_fmt", "wanted"),
    [
        ("gray", "out.mkv", "yuv420p", (126, 126)),
        ("gray10le", "out.mkv", "yuv420p10le", (504, 504)),
        ("gray10le", "out.mkv", "yuv420p", (126, 126)),
        ("gray", "out.png", None, (128, 126)),
        ("gray10le", "out.png", None, (32917, 32287)),
    ],
)
def test_gray_video_keeps_its_light(
    tmp_path: Path, gray: str, name: str, pix_fmt: str | None, wanted: tuple[int, int], code_range: int
) -> None:
    """By hand: code 126 of 8 bits is (126 - 16) / 219 of white in limited range, and 126 / 255 in full."""
    deep = gray == "gray10le"
    frame = av.VideoFrame(34, 20, gray)
    fill_picture(frame, [np.full((20, 34), 504 if deep else 126, np.uint16 if deep else np.uint8)])
    frame.pts, frame.color_range = 0, code_range
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.color_range = 34, 20, gray, code_range
        out.mux([*stream.encode(frame), *stream.encode(None)])
    options: dict[str, Any] = {"codec": "ffv1", "pix_fmt": pix_fmt} if pix_fmt else {}
    streamer.enhance(tmp_path / "in.mkv", tmp_path / name, model="none", **options)
    picture = decoded(tmp_path / name)[0]
    light = picture.reformat(format="gray16le").to_ndarray() if name == "out.png" and deep else planes(picture)[0]
    assert light[0, 0] == light[-1, -1] == wanted[code_range == FULL]
    for plane in planes(picture)[1:] if pix_fmt else ():
        assert (plane == (512 if "10" in picture.format.name else 128)).all()
