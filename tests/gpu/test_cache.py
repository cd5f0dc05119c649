"""The cache of plans: nothing stale, foreign or damaged is loaded, nothing is built twice, and nothing stops a job."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engines import (
    EngineError,
    EngineRequest,
    PlanCache,
    TensorRTEngine,
    TensorRTRTXEngine,
    open_engine,
    plan_is_ready,
)
from engines.tensorrt import BuildSettings
from engines.tensorrt.key import PlanKey
from tests.gpu import standin
from tests.pixel_models import tiny_model

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

HEIGHT, WIDTH = 18, 26
SHAPES = {"luma": (1, 1, HEIGHT, WIDTH)}
KEY = PlanKey({"model": "a", "settings": "b", "backend": "tensorrt", "gpu": "some GPU"})
OTHER = PlanKey({"model": "c", "settings": "b", "backend": "tensorrt", "gpu": "some GPU"})


def never() -> bytes:
    raise AssertionError("nothing must be built")


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


def only_plan(cache: PlanCache) -> Path:
    (path,) = cache.folder.glob("*.plan")
    return path


# --- the cache by itself


def test_what_was_built_is_there_the_next_time(cache: PlanCache) -> None:
    for build in (lambda: b"plan", never):
        assert cache.fetch(KEY, "first", build) == b"plan"
    assert cache.fetch(OTHER, "other", lambda: b"other plan") == b"other plan"
    assert [entry.title for entry in cache.entries()] == ["other", "first"]
    assert {entry.backend for entry in cache.entries()} == {"tensorrt"}
    assert all(entry.size_bytes > 0 and entry.age_s >= 0 for entry in cache.entries())


@pytest.mark.parametrize("part", sorted(KEY.parts))
def test_every_part_of_the_key_matters(part: str) -> None:
    assert PlanKey(KEY.parts | {part: "changed"}).digest != KEY.digest


def test_measurements_are_shared_between_models_only() -> None:
    assert KEY.machine_digest == OTHER.machine_digest
    assert PlanKey(KEY.parts | {"gpu": "another"}).machine_digest != KEY.machine_digest


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[:-1], "it is damaged"),
        (lambda content: content[:-1] + b"!", "it is damaged"),
        (lambda content: content.replace(b'"sha256"', b'"sha255"'), "it is damaged"),
        (lambda content: b"", "no plan of this program"),
        (lambda content: b"something else", "no plan of this program"),
        (lambda content: content.replace(b"some GPU", b"that GPU"), "made for something else"),
    ],
)
def test_a_damaged_or_foreign_plan_is_built_again(
    cache: PlanCache, caplog: pytest.LogCaptureFixture, damage: object, told: str
) -> None:
    assert callable(damage)
    cache.fetch(KEY, "it", lambda: b"plan")
    path = only_plan(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.fetch(KEY, "it", lambda: b"new plan") == b"new plan"
    assert told in caplog.text
    assert cache.fetch(KEY, "it", never) == b"new plan"


def test_a_plan_that_others_may_write_is_not_loaded(cache: PlanCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.fetch(KEY, "it", lambda: b"plan")
    only_plan(cache).chmod(0o666)
    assert cache.fetch(KEY, "it", never) == b"plan", "nobody else comes into the folder"
    cache.folder.chmod(0o755)
    assert cache.fetch(KEY, "it", lambda: b"my own") == b"my own"
    assert "may be written by, someone else" in caplog.text
    cache.folder.chmod(0o777)
    assert cache.fetch(KEY, "it", lambda: b"again") == b"again"
    assert "plans are not kept" in caplog.text


def test_a_folder_on_a_read_only_volume_is_read(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    cache.fetch(KEY, "it", lambda: b"plan")
    for call in ("utime", "unlink"):
        monkeypatch.setattr(os, call, read_only)
    assert cache.peek(KEY, "it") == b"plan"
    cache.discard(KEY, "it", "it does not load")
    assert cache.clear() == 0
    assert cache.peek(KEY, "it") == b"plan"


def test_a_folder_that_is_closed_to_the_user_has_no_plans(
    simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As root leaves it, for example in a container."""
    real, request = os.stat, EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="tensorrt")
    open_engine(request, slots=1).close()
    closed = str(PlanCache().folder)

    def denied(path: Any, **settings: Any) -> os.stat_result:
        if str(path).startswith(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, **settings)

    monkeypatch.setattr(os, "stat", denied)
    assert not plan_is_ready(request)
    assert (PlanCache().entries(), PlanCache().keys(), PlanCache().clear()) == ([], [], 0)
    with open_engine(request, slots=1) as engine:
        assert engine.is_open
    assert "plans are not kept" in caplog.text


def test_a_full_disk_costs_a_warning_only(
    cache: PlanCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert cache.fetch(KEY, "it", lambda: b"plan") == b"plan"
    assert "No space left on device" in caplog.text
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_costs_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert PlanCache(tmp_path / "file" / "plans").fetch(KEY, "it", lambda: b"plan") == b"plan"
    assert "plans are not kept" in caplog.text


def test_what_a_killed_process_left_is_removed(cache: PlanCache) -> None:
    cache.fetch(KEY, "it", lambda: b"plan")
    mine, other = (cache.folder / f"{name}x1.part" for name in (KEY.digest, OTHER.digest))
    for path in (mine, other, only_plan(cache)):
        path.write_bytes(b"half a plan")
    cache.fetch(KEY, "it", lambda: b"plan")
    assert not mine.exists()
    assert other.exists(), "that process may still be at work"
    cache.clear()
    assert not list(cache.folder.iterdir())


def test_a_failed_build_leaves_nothing_and_frees_the_lock(cache: PlanCache) -> None:
    def interrupted() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch(KEY, "it", interrupted)
    assert not list(cache.folder.glob("*.plan"))
    assert cache.fetch(KEY, "it", lambda: b"plan") == b"plan"


def test_the_plans_used_longest_ago_make_room(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans", limit_bytes=1500)
    keys = [PlanKey(KEY.parts | {"model": str(number)}) for number in range(3)]
    for age, key in zip((300, 100, 200), keys, strict=True):
        cache.fetch(key, "it", lambda: bytes(500))
        path = cache.folder / f"{key.digest}.plan"
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    cache.fetch(OTHER, "it", lambda: bytes(500))
    assert cache.fetch(keys[1], "it", never) == bytes(500)
    for key in (keys[0], keys[2]):
        assert not (cache.folder / f"{key.digest}.plan").exists()


def test_another_process_makes_room_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PlanCache(tmp_path / "plans", limit_bytes=500)
    for number in range(3):
        cache.fetch(PlanKey(KEY.parts | {"model": str(number)}), "it", lambda: bytes(300))
    real = PlanCache._plans

    def emptied_behind_its_back(self: PlanCache) -> list[Path]:
        found = real(self)
        for path in found:
            if KEY.digest not in path.name:
                path.unlink()
        return found

    monkeypatch.setattr(PlanCache, "_plans", emptied_behind_its_back)
    assert cache.fetch(KEY, "it", lambda: bytes(300)) == bytes(300)
    assert cache.fetch(KEY, "it", never) == bytes(300)


def test_clearing_says_what_it_freed(cache: PlanCache) -> None:
    assert cache.clear() == 0
    cache.fetch(KEY, "it", lambda: bytes(5000))
    cache.store_side("timing-x", b"measurements")
    assert cache.load_side("timing-x") == b"measurements"
    assert cache.clear() > 5000
    assert cache.entries() == []
    assert cache.load_side("timing-x") == b""


def test_two_processes_build_a_plan_once(cache: PlanCache) -> None:
    script = (
        "import sys, pathlib; from engines import PlanCache; from tests.gpu.test_cache import KEY\n"
        "print(PlanCache(pathlib.Path(sys.argv[1])).fetch(KEY, 'it', lambda: b'from the child').decode())"
    )

    def slow() -> bytes:  # while this runs, the child asks for the same plan
        command = [sys.executable, "-c", script, str(cache.folder)]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        stderr = children[0].stderr
        assert stderr is not None
        assert "waiting for another process" in stderr.readline()
        return b"from the parent"

    children: list[subprocess.Popen[str]] = []
    cache.fetch(KEY, "it", slow)
    with children[0] as child:
        out, _ = child.communicate(timeout=60)
    assert out.strip() == "from the parent"


def test_plans_are_kept_on_a_file_system_without_locks(
    cache: PlanCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As some network file systems answer."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks otherwise")

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert cache.fetch(KEY, "it", lambda: b"plan") == b"plan"
    assert "another process may build it at the same time: No locks available" in caplog.text
    assert "waiting" not in caplog.text
    assert cache.fetch(KEY, "it", never) == b"plan"


# --- with the engine


def test_the_engine_builds_once_and_again_when_settings_change(
    simulated_gpu: SimulatedGpu, cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(level: int | None = None) -> None:
        settings = BuildSettings(level=level)
        with TensorRTEngine(tiny_model(), SHAPES, slots=1, cache=cache, settings=settings):
            pass

    opening()
    assert len(cache.entries()) == 1
    (timing,) = cache.folder.glob("timing-*.side")
    assert timing.read_bytes() == b"."
    opening(level=5)
    assert len(cache.entries()) == 2
    assert timing.read_bytes() == b".."
    monkeypatch.setattr(standin.Builder, "build_serialized_network", None)
    opening()
    opening(level=5)


def test_a_plan_of_another_version_is_built_again(
    simulated_gpu: SimulatedGpu, cache: PlanCache, caplog: pytest.LogCaptureFixture
) -> None:
    with TensorRTEngine(tiny_model(), SHAPES, slots=1, cache=cache):
        pass
    path = only_plan(cache)
    head, key, plan = path.read_bytes().split(b"\n", 2)
    aged = plan.replace(b'"11.4.0"', b'"10.9.0"')
    about = json.loads(key) | {"sha256": hashlib.sha256(aged).hexdigest()}
    path.write_bytes(b"\n".join([head, json.dumps(about).encode(), aged]))
    with caplog.at_level(logging.WARNING), TensorRTEngine(tiny_model(), SHAPES, slots=1, cache=cache):
        pass
    assert "is not usable (TensorRT does not load the plan: Serialized engine is not of this version)" in caplog.text
    assert plan in only_plan(cache).read_bytes()


def test_a_driver_that_counts_memory_otherwise_finds_the_plan(simulated_gpu: SimulatedGpu) -> None:
    request = EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="tensorrt")
    for memory, ready in ((8 << 30, True), ((8 << 30) - (200 << 20), True), (6 << 30, False)):
        simulated_gpu.reset(memory=memory)
        if memory == 8 << 30:
            open_engine(request, slots=1).close()
        assert plan_is_ready(request) == ready


def test_what_rtx_compiled_is_kept(simulated_gpu: SimulatedGpu, cache: PlanCache) -> None:
    for expected in (b".", b".."):
        with TensorRTRTXEngine(tiny_model(), SHAPES, slots=1, cache=cache):
            pass
        (compiled,) = cache.folder.glob("runtime-*.side")
        assert compiled.read_bytes() == expected
    compiled.write_bytes(b"!")
    with TensorRTRTXEngine(tiny_model(), SHAPES, slots=1, cache=cache) as engine:
        assert engine.is_open


def test_open_engine_uses_the_cache_of_the_user(simulated_gpu: SimulatedGpu, tmp_path: Path) -> None:
    for _ in range(2):
        open_engine(EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="tensorrt"), slots=1).close()
    assert [entry.title for entry in PlanCache().entries()] == ["the given model for 26x18"]
    assert PlanCache().folder == tmp_path / "cache" / "streamer-enhancer" / "plans"


def test_cancelling_a_build_leaves_nothing(simulated_gpu: SimulatedGpu, cache: PlanCache) -> None:
    def cancel(phase: str, done: int, steps: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    engine = TensorRTEngine(tiny_model(), SHAPES, cache=cache, progress=cancel)
    with pytest.raises(KeyboardInterrupt):
        engine.open()
    assert not engine.is_open
    assert cache.entries() == []


def test_a_plan_that_never_loads_is_an_error(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.Runtime, "deserialize_cuda_engine", lambda self, serialized_engine: None)
    with pytest.raises(EngineError, match="does not load the plan: it gave no reason"):
        TensorRTEngine(tiny_model(), SHAPES).open()
