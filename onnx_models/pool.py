"""Patches for training: generated once, cached as memory-mapped files, the same for a seed.

A pool is a folder of shards. Shard k holds `low.npy` uint8 `[N,p,p]`, `high.npy` uint8
`[N,s*p,s*p]`, `levels.npy` float32 `[N,2]` (level and noise) and
`shard.json` (the degradations drawn); it exists completely or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING

import cv2
import numpy as np

from onnx_models import degrade
from onnx_models.errors import TrainingError
from onnx_models.limits import COUNT, SHARE, Limits, check
from onnx_models.scenes import Plane, SceneMix, Scenes, find_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VALIDATION = "validation"


@dataclass(frozen=True)
class PoolSize:
    """How much is generated."""

    shards: int = 16
    sequences_per_shard: int = 125
    patches_per_sequence: int = 16
    patch_px: int = 96
    """Side of a patch in input pixels."""
    successive: bool = False
    """Patches come in twos: one place in two frames that follow each other, for a loss on what flickers."""
    validation_sequences: int = 48
    validation_share: float = 0.05
    """Share of the files that only the validation shard sees (at least one, if there are two)."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("shards", "sequences_per_shard", "patch_px", "validation_sequences"), COUNT)
        patches = {"patches_per_sequence": Limits(2) if self.successive else COUNT}
        check(self, counts | patches | {"validation_share": SHARE})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a shard contains."""

    scale: int
    seed: int
    scene: SceneMix
    mix: degrade.DegradeMix
    size: PoolSize

    def key(self, files: Sequence[Path]) -> str:
        """Changes when the recipe or the list of files does; not when only `shards` grows."""
        size = {k: v for k, v in asdict(self.size).items() if k != "shards"}
        parts = [self.scale, self.seed, asdict(self.scene), asdict(self.mix), size]
        names = [[path.name, path.stat().st_size] for path in files]
        return hashlib.sha256(json.dumps([parts, names]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Patches:
    """Pairs of input and target patches, uint8, memory-mapped."""

    low: list[NDArray[np.uint8]]
    high: list[NDArray[np.uint8]]
    levels: list[NDArray[np.float32]]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.low)

    def sample(self, index: int) -> tuple[Plane, Plane, NDArray[np.float32]]:
        """Patch `index` as (input `[p,p]`, target `[s*p,s*p]`, level and noise `[2]`)."""
        for low, high, levels in zip(self.low, self.high, self.levels, strict=True):
            if index < len(low):
                return low[index], high[index], levels[index]
            index -= len(low)
        raise IndexError(index)


def split_files(files: Sequence[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """(training, validation) files, at least one each; a lone file serves both."""
    if len(files) <= 1:
        return list(files), list(files)
    order = np.random.default_rng(seed).permutation(len(files))
    held = {int(i) for i in order[: min(len(files) - 1, max(1, round(len(files) * share)))]}
    train = [path for i, path in enumerate(files) if i not in held]
    return train, [path for i, path in enumerate(files) if i in held]


def _positions(luma: Plane, side: int, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners of input patches, the busier half of twice as many random ones."""
    rows, cols = luma.shape[0] - side + 1, luma.shape[1] - side + 1
    busy = np.abs(cv2.Laplacian(luma.astype(np.float32), cv2.CV_32F))
    mean = cv2.boxFilter(busy, -1, (side, side), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    corners = [(int(rng.integers(rows)), int(rng.integers(cols))) for _ in range(2 * count)]
    corners.sort(key=lambda corner: -float(mean[corner]))
    return corners[:count]


def _cut(
    scenes: Scenes, recipe: Recipe, rng: np.random.Generator
) -> tuple[list[Plane], list[Plane], tuple[float, float], degrade.Degradation]:
    """Patches of one sequence, from a few of its frames, and its level and noise."""
    how = degrade.draw(recipe.mix, recipe.scale, rng)
    result = degrade.degrade(scenes.draw(rng), how, rng)
    received = result.lumas
    side, scale, run = recipe.size.patch_px, recipe.scale, 2 if recipe.size.successive else 1
    if min(received[0].shape) < side:
        raise TrainingError(
            f"a sequence gives inputs of {received[0].shape[1]}x{received[0].shape[0]} px, patches "
            f"need {side}: lower [pool] patch_px or use larger clips"
        )
    beginnings = len(received) - run + 1
    frames_used = min(4, beginnings, recipe.size.patches_per_sequence // run)
    frames = rng.choice(beginnings, frames_used, replace=False)
    lows, highs = [], []
    for begin in frames:
        count = recipe.size.patches_per_sequence // (frames_used * run)
        for y, x in _positions(received[begin], side, count, rng):
            top, left = y * scale, x * scale
            for t in range(begin, begin + run):
                lows.append(received[t][y : y + side, x : x + side])
                highs.append(result.targets[t][top : top + side * scale, left : left + side * scale])
    return lows, highs, (result.level, result.noise), how


@functools.lru_cache(maxsize=1)
def _scenes(photos: tuple[Path, ...], clips: tuple[Path, ...], mix: SceneMix) -> Scenes:
    """Kept for the next shard of the same process: decoding the clips takes seconds."""
    return Scenes(photos, clips, mix)


def _make_shard(recipe: Recipe, photos: list[Path], clips: list[Path], folder: Path) -> None:
    """Generate one shard; its name seeds it."""
    cv2.setNumThreads(1)
    validation = folder.name == VALIDATION
    number = 0 if validation else 1 + int(folder.name.rsplit("-", 1)[1])
    count = recipe.size.validation_sequences if validation else recipe.size.sequences_per_shard
    scenes = _scenes(tuple(photos), tuple(clips), recipe.scene)
    lows, highs, levels, records = [], [], [], []
    for i in range(count):
        rng = np.random.default_rng([recipe.seed, number, i])
        low, high, pair, how = _cut(scenes, recipe, rng)
        lows += low
        levels += [pair] * len(low)
        highs += high
        records.append(asdict(how))
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    np.save(partial / "low.npy", np.stack(lows))
    np.save(partial / "high.npy", np.stack(highs))
    np.save(partial / "levels.npy", np.array(levels, np.float32))
    (partial / "shard.json").write_text(json.dumps(records))
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)  # another training made the same one meanwhile


def _end_with_parent() -> None:
    """Of a worker: it would wait for work for ever if the process that gives it were killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def workers(jobs: int) -> ProcessPoolExecutor:
    """So many processes, without the threads and the memory of this one, that end when it does, however it ends."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _make_shards(recipe: Recipe, missing: Sequence[tuple[list[Path], list[Path], Path]], jobs: int) -> None:
    """All of them, `jobs` at a time; after a failure those under way are finished and no more begun."""
    with workers(jobs) as executor:
        try:
            for done in as_completed([executor.submit(_make_shard, recipe, *job) for job in missing]):
                done.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that makes patches ended before its shard was made; if memory ran out, give fewer --jobs"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)


def _remove_leftovers(root: Path) -> None:
    """Unfinished shards of processes of this machine that are no more."""
    for partial in root.glob("*.partial-*"):
        pid = partial.name.rpartition("-")[2]
        if pid.isdecimal() and not _is_running(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)  # another training may do the same


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _open(folders: Sequence[Path]) -> Patches:
    lows = [np.load(folder / "low.npy", mmap_mode="r") for folder in folders]
    highs = [np.load(folder / "high.npy", mmap_mode="r") for folder in folders]
    return Patches(lows, highs, [np.load(folder / "levels.npy") for folder in folders])


def make_pool(recipe: Recipe, data: Sequence[Path], out: Path, jobs: int = 1) -> tuple[Patches, Patches]:
    """Open the pool below `out`, generating what is missing.

    Trainings that share a folder may generate at the same time; what one finds done it takes.

    Args:
        recipe: what to generate.
        data: folders of photographs and clips.
        out: the pool lies in `out/pool-<key>`.
        jobs: processes that generate shards.

    Returns:
        Training and validation patches.

    Raises:
        TrainingError: the data cannot serve (missing, too small, corrupt), or a process was killed.
    """
    photos, clips = find_files(data)
    root = out / f"pool-{recipe.key([*photos, *clips])}"
    root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(root)
    share, seed = recipe.size.validation_share, recipe.seed
    photos_in, photos_out = split_files(photos, share, seed)
    clips_in, clips_out = split_files(clips, share, seed)
    jobs_to_do = [(photos_out, clips_out, root / VALIDATION)]
    shards = [root / f"shard-{i:03d}" for i in range(recipe.size.shards)]
    jobs_to_do += [(photos_in, clips_in, shard) for shard in shards]
    missing = [job for job in jobs_to_do if not job[2].is_dir()]
    if jobs > 1 and len(missing) > 1:
        _make_shards(recipe, missing, jobs)
    else:
        for job in missing:
            _make_shard(recipe, *job)
        _scenes.cache_clear()
    return _open(shards), _open([root / VALIDATION])
