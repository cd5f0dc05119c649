"""Photographs and clips as material: what is refused, and why."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from onnx_models import scenes
from onnx_models.errors import TrainingError
from onnx_models.evaluate import paper_pair
from onnx_models.scenes import SceneMix, Scenes, read_clip, read_photo
from tests.clips import Clip
from tests.photos import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIX = SceneMix(width_px=96, height_px=64, smallest_px=32, frames=4, clip_reduce=(1,))

both_readers = pytest.mark.parametrize("read", [read_photo, lambda path: paper_pair(path, 2)], ids=["photo", "picture"])


@both_readers
def test_a_jpeg_that_was_cut_short_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    """Decoders fill what is missing with gray."""
    for name, options in (("baseline", []), ("progressive", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])):
        path = tmp_path / f"{name}.jpg"
        cv2.imwrite(str(path), picture(0), options)
        read(path)
        path.write_bytes(path.read_bytes() + b"what some cameras add")
        read(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(TrainingError, match=rf"{name}\.jpg cannot be decoded: it is cut short"):
            read(path)


@both_readers
def test_a_picture_too_large_to_decode_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = tmp_path / "huge.png"
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(TrainingError, match=r"huge\.png cannot be decoded"):
        read(path)


def test_a_clip_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    parts = [Clip(*size, frames=3).write(tmp_path / f"{size[0]}.ts").read_bytes() for size in ((64, 48), (96, 64))]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    with pytest.raises(TrainingError, match=r"both\.ts changes from 64x48 to 96x64 px"):
        read_clip(path)


def test_too_many_clips_for_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip(64, 48, frames=6).write(tmp_path / "clip.mkv")
    frame_bytes = 64 * 48 * 3 // 2
    monkeypatch.setattr(scenes, "CLIP_BYTES_MAX", 2 * 3 * frame_bytes)
    with pytest.raises(TrainingError, match=r"memory for 2 clips .* holds 3 frames of .*clip\.mkv, 4 are needed"):
        Scenes([], [path, path], MIX)


def test_clips_are_not_read_when_none_is_to_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "broken.mkv").write_bytes(b"garbage")
    cv2.imwrite(str(tmp_path / "photo.png"), picture(0))
    none, some = (SceneMix(96, 64, 32, 4, clip_share=share) for share in (0.0, 1.0))
    photos, clips = [tmp_path / "photo.png"], [tmp_path / "broken.mkv"]
    drawn = Scenes(photos, clips, none).draw(np.random.default_rng(0))
    assert len(drawn) == 4
    with pytest.raises(TrainingError, match=r"broken\.mkv cannot be decoded"):
        Scenes(photos, clips, some)
    with pytest.raises(TrainingError, match=r"broken\.mkv cannot be decoded"):
        Scenes([], clips, none)  # there is nothing else


def test_a_clip_that_is_not_read_changes_no_other_draw(tmp_path: Path) -> None:
    """Pools that were made before hold what is drawn now."""
    cv2.imwrite(str(tmp_path / "photo.png"), picture(0))
    clip = Clip(96, 64, frames=6).write(tmp_path / "clip.mkv")
    kept = Scenes([tmp_path / "photo.png"], [clip], SceneMix(96, 64, 32, 4, clip_share=0.0))
    rng = np.random.default_rng(5)
    rng.random()  # photograph or clip?
    expected = Scenes([tmp_path / "photo.png"], [], MIX)._from_photo(rng)
    for ours, theirs in zip(kept.draw(np.random.default_rng(5)), expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
