"""Stabilisation in whole jobs: which jobs have it, what it does to files, and what it says."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

import streamer
from streamer.errors import UsageError
from tests.clips import decoded, luma, times
from tests.stabilise.scenes import noisy, textured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stabilise.scenes import Luma

FRAMES = 16


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A still scene with noise, lossless."""
    path = tmp_path / "noisy.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25, width=128, height=96)
        stream.pix_fmt = "yuv420p"
        for source in noisy(textured(96, 128), FRAMES, 6.0):
            planes = np.concatenate([source, np.full((48, 128), 128, np.uint8)])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def flicker(path: Path) -> float:
    """Mean change between the last frames."""
    last: list[Luma] = [luma(picture) for picture in decoded(path)[-4:]]
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(last)]))


@pytest.mark.parametrize("scale", [1, 2])
def test_enhancement_stabilises_unless_told_otherwise(clip: Path, tmp_path: Path, scale: int) -> None:
    found = {}
    for mode in ("auto", "off", "flow"):
        output = tmp_path / f"{mode}.mkv"
        summary = streamer.enhance(clip, output, scale=scale, stabilise=mode, codec="ffv1", engine="onnxruntime")
        assert summary.frames == FRAMES
        assert ("stabilise" in summary.stats["stages"]) == (mode != "off")
        assert times(output) == times(clip)
        found[mode] = flicker(output)
    assert found["auto"] < found["off"] / 2
    assert found["flow"] < found["off"] / 2


def test_a_transcode_keeps_its_bits_unless_asked(clip: Path, tmp_path: Path) -> None:
    same, stable = tmp_path / "same.mkv", tmp_path / "stable.mkv"
    streamer.enhance(clip, same, model="none", codec="ffv1")
    for ours, theirs in zip(decoded(clip), decoded(same), strict=True):
        np.testing.assert_array_equal(luma(ours), luma(theirs))
    streamer.enhance(clip, stable, model="none", stabilise="adaptive", codec="ffv1")
    assert flicker(stable) < flicker(clip) / 2


def test_bad_choices_name_the_good_ones(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="off, adaptive, flow, or auto"):
        streamer.enhance(clip, tmp_path / "out.mkv", stabilise="fixed")
    with pytest.raises(UsageError, match="2 is out of range"):
        streamer.enhance(clip, tmp_path / "out.mkv", stabilise_strength=2)
