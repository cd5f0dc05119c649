"""Cameras, real and virtual: FFmpeg's V4L2 demuxer and pyvirtualcam's V4L2 backend on devices that a shim pretends.

The shim (v4l2shim.c) is preloaded into a child process; everything above the system calls is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.clips import decoded, planes, times
from tests.live.peers import LIMIT_S, process

WIDTH, HEIGHT, CB, CR = 160, 120, 100, 160


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the camera is compiled with gcc, for Linux")
    library = tmp_path_factory.mktemp("shim") / "v4l2shim.so"
    source = Path(__file__).with_name("v4l2shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def environment(shim: Path, tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "camera"
    folder.mkdir()
    return {**os.environ, "LD_PRELOAD": str(shim), "V4L2SHIM_DIR": str(folder)}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "streamer", "enhance", *map(str, arguments), "--model", "none"]


def enhance(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("name", ["camera:0", pytest.param("/dev/video0", marks=pytest.mark.slow)])
def test_pictures_arrive_as_the_camera_made_them(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    recording = tmp_path / "out.mkv"
    done = enhance(environment, name, recording, "--codec", "ffv1", "--duration", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    pictures = [planes(picture) for picture in decoded(recording)]
    numbers = [number for number in map(number_of, pictures) if number is not None]
    stand_ins = json.loads(done.stdout)["stand_ins"]  # a busy machine may be late for some
    assert len(numbers) >= max(1, len(pictures) - stand_ins)
    assert len(set(numbers)) >= len(pictures) - stand_ins
    assert numbers == sorted(numbers)
    found = times(recording)
    assert found == sorted(set(found))


def number_of(picture: tuple[npt.NDArray[Any], ...]) -> int | None:
    """Which of the camera's pictures it is, if it is one of them to the last bit."""
    luma, cb, cr = picture
    assert luma.shape == (HEIGHT, WIDTH)
    number = (int(luma[0, 0]) - 16) // 2
    line = 16 + (np.arange(WIDTH) + 2 * number) % 200
    return number if (luma == line).all() and (cb == CB).all() and (cr == CR).all() else None


@pytest.mark.slow
def test_a_camera_in_use(environment: dict[str, str], tmp_path: Path) -> None:
    Path(environment["V4L2SHIM_DIR"], "busy").touch()
    done = enhance(environment, "camera:0", tmp_path / "out.mkv", "--reconnect-limit", "0")
    assert done.returncode == 1
    assert "can't connect to camera:0: device or resource busy; another program uses it" in done.stderr


@pytest.mark.slow
def test_a_camera_that_is_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    Path(environment["V4L2SHIM_DIR"], "unplugged").touch()
    done = enhance(environment, "camera:0", tmp_path / "out.mkv", "--reconnect-limit", "0")
    assert done.returncode == 1
    assert "can't connect to camera:0: no such file or directory; this machine has" in done.stderr


@pytest.mark.slow
def test_a_cable_is_pulled_and_put_in_again(environment: dict[str, str], tmp_path: Path) -> None:
    recording, unplugged = tmp_path / "out.mkv", Path(environment["V4L2SHIM_DIR"], "unplugged")
    options = ("--preset", "ultrafast", "--duration", "4", "--json", "--log-level", "info")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with process(command("camera:0", recording, "null:", *options), env=environment, **pipes) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while not list(tmp_path.glob(".out*")):
            assert running.poll() is None
            os.sched_yield()
        unplugged.touch()
        said = ""
        while "next try" not in said:
            said = running.stderr.readline().decode()
            assert said
        unplugged.unlink()
        output, errors = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 0, errors
    summary = json.loads(output.splitlines()[-1])  # after an event a second
    assert summary["reconnects"] == 1
    assert 0 < summary["stand_ins"] < 60
    found = times(recording)
    assert len(found) == summary["frames"]
    assert found == sorted(set(found))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyvirtualcam") is None, reason="pyvirtualcam makes virtual cameras")
def test_a_virtual_camera(environment: dict[str, str]) -> None:
    folder = Path(environment["V4L2SHIM_DIR"])
    done = enhance(environment, "test:64x48@50,10", "virtualcam:/dev/video9", "--no-live", "--json")
    assert done.returncode == 0, done.stderr
    assert (folder / "format").read_text() == "64x48 YU12"
    frames = np.fromfile(folder / "written", np.uint8).reshape(-1, 64 * 48 * 3 // 2)
    assert len(frames) == 10
    assert np.ptp(frames[:, : 64 * 48], axis=0).mean() > 10, "it moves"
