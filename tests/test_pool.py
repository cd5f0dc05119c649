"""Pools of patches while others make them, too, and when something goes wrong on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from onnx_models import pool
from onnx_models.degrade import DegradeMix
from onnx_models.errors import TrainingError
from onnx_models.pool import VALIDATION, PoolSize, Recipe, make_pool, split_files
from onnx_models.scenes import SceneMix, find_files
from tests.photos import picture

if TYPE_CHECKING:
    from pathlib import Path

SCENE = SceneMix(width_px=96, height_px=64, smallest_px=64, frames=2)
MIX = DegradeMix(uncompressed_share=1.0)
ENDED = 2**22 + 1
"""A process number above all that Linux gives."""


def recipe(shards: int = 1) -> Recipe:
    size = PoolSize(shards, sequences_per_shard=1, patches_per_sequence=2, patch_px=24, validation_sequences=1)
    return Recipe(2, 1, SCENE, MIX, size)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), picture(seed))
    return folder


def test_only_what_the_dead_left_is_removed(data: Path, tmp_path: Path) -> None:
    make_pool(recipe(), [data], tmp_path)
    (root,) = tmp_path.glob("pool-*")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as neighbour:
        names = [f"shard-001.partial-{pid}" for pid in (neighbour.pid, ENDED)]
        for name in names:
            (root / name).mkdir()
        make_pool(recipe(2), [data], tmp_path)
        assert [(root / name).exists() for name in names] == [True, False]
        neighbour.communicate(b"\n")


def test_who_comes_second_takes_what_is_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears while the same shard is made here."""
    save = np.save

    def overtaken(path: Path, values: Any) -> None:
        (path.parent.parent / VALIDATION).mkdir(exist_ok=True)
        (path.parent.parent / VALIDATION / "theirs").touch()
        save(path, values)

    monkeypatch.setattr(np, "save", overtaken)
    with pytest.raises(FileNotFoundError, match=r"low\.npy"):  # theirs is empty here
        make_pool(recipe(), [data], tmp_path)
    (root,) = tmp_path.glob("pool-*")
    assert sorted(path.name for path in root.iterdir()) == ["shard-000", VALIDATION]
    assert [path.name for path in (root / VALIDATION).iterdir()] == ["theirs"]


@pytest.mark.slow
def test_a_failure_is_told_before_all_else_is_made(data: Path, tmp_path: Path) -> None:
    photos, _ = find_files([data])
    _, (held_out,) = split_files(photos, PoolSize.validation_share, seed=1)
    held_out.write_bytes(b"garbage")
    with pytest.raises(TrainingError, match="cannot be decoded"):
        make_pool(recipe(shards=200), [data], tmp_path, jobs=2)
    assert len(list(tmp_path.glob("pool-*/shard-*"))) < 200


@pytest.mark.slow
def test_workers_end_with_their_parent() -> None:
    code = """
import signal
from onnx_models.pool import workers
executor = workers(2)
executor.submit(abs, 0).result()
for _ in range(2):
    executor.submit(signal.pause)
print("at work", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "at work\n"
        parent.kill()
        parent.communicate(timeout=30)  # workers have the same output: it ends with the last of them


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_make_shard", _die)
    with pytest.raises(TrainingError, match="ended before its shard was made"):
        make_pool(recipe(), [data], tmp_path, jobs=2)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
