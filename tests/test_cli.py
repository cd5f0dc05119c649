"""The command line as users run it: real processes, exit codes, files."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import streamer
from tests.clips import Clip, decoded, times

LIMIT_S = 120


def run(*arguments: str | Path, preexec: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LIMIT_S, preexec_fn=preexec)


def command(*arguments: str | Path) -> Sequence[str]:
    return [sys.executable, "-m", "streamer", *map(str, arguments)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip(64, 48, frames=12, audio="aac").write(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_enhance_prints_one_json_summary(clip: Path, tmp_path: Path) -> None:
    done = run("enhance", clip, tmp_path / "out.mp4", "--json", "--strength", "0.5", "--engine", "onnxruntime")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["engine"], summary["output_size"]) == (12, "onnxruntime", "128x96")
    assert times(tmp_path / "out.mp4") == times(clip)


def test_enhance_says_what_it_did_and_where(clip: Path, tmp_path: Path) -> None:
    done = run("enhance", clip, tmp_path / "out.mkv", "null:", "--codec", "ffv1", "--model", "none")
    assert done.returncode == 0, done.stderr
    assert "copied 12 frames, 64x48 to 64x48" in done.stdout
    assert str(tmp_path / "out.mkv") in done.stdout


@pytest.mark.slow
def test_times_as_people_write_them(clip: Path, tmp_path: Path) -> None:
    done = run("enhance", clip, tmp_path / "out.mkv", "--start", "0:00.2", "--duration", "0:00:00.08", "--json")
    assert json.loads(done.stdout)["frames"] == 2
    assert run("enhance", clip, tmp_path / "b.mkv", "--start", "soon").returncode == 2


@pytest.mark.slow
def test_failure_is_1_and_bad_usage_2_without_a_traceback(clip: Path, tmp_path: Path) -> None:
    for code, arguments in (
        (1, ("enhance", "nowhere.mp4", tmp_path / "a.mp4")),
        (1, ("enhance", clip, tmp_path / "a.mp4", "--engine", "tensorrt")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--strength", "7")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--level", "7")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--level", "some")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--noise", "-1")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--precision", "f64")),
        (2, ("enhance", clip, tmp_path / "a.mp4", "--no-such-option")),
        (2, ("enhance", clip, clip)),
        (1, ("models", "show", "nope")),
    ):
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("enhance", "nowhere.mp4", tmp_path / "a.mp4", "--log-level", "debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_control_c_finishes_a_playable_file(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    process = subprocess.Popen(
        command("enhance", "test:320x180@30,100000", target, "--preset", "ultrafast", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_growth(process, tmp_path)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, errors
    summary = json.loads(output)
    assert summary["interrupted"]
    assert len(decoded(target)) == summary["frames"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]], ids=["term", "twice"])
def test_other_ways_to_stop(tmp_path: Path, signals: list[signal.Signals]) -> None:
    process = subprocess.Popen(
        command("enhance", "test:320x180@30,100000", tmp_path / "out.mp4", "--preset", "veryslow", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_growth(process, tmp_path)
    for number in signals:
        process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, errors
    assert "terminate called" not in errors
    assert not list(tmp_path.glob(".*part*"))


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_under_the_target_name(tmp_path: Path) -> None:
    process = subprocess.Popen(command("enhance", "test:320x180@30,100000", tmp_path / "out.mp4"))
    _wait_for_growth(process, tmp_path)
    process.kill()
    process.wait(LIMIT_S)
    assert not (tmp_path / "out.mp4").exists()


def _wait_for_growth(process: subprocess.Popen[str] | subprocess.Popen[bytes], folder: Path) -> None:
    """Returns when the partial file has some content, so that frames are under way."""
    while process.poll() is None:
        if any(path.stat().st_size > 1000 for path in folder.glob(".*part*")):
            return
        os.sched_yield()
    raise AssertionError("the process ended by itself")


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    done = run("enhance", "test:320x180@30,90", tmp_path / "out.mp4", "--crf", "5", preexec=small_files_only)
    assert done.returncode == 1
    assert "out.mp4" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_demo_writes_a_video_and_a_picture(tmp_path: Path) -> None:
    done = run("demo", "--folder", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert len(decoded(tmp_path / "demo" / "book-x2.mp4")) == 109
    assert decoded(tmp_path / "demo" / "before-after.png")[0].height > 100
    assert "before-after.png" in done.stdout
    assert "frames/s" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("doctor",), ("openvino", "tensorrt", "upscale-x2-nano: ok", "h264")),
        (("engines", "list"), ("yes  openvino", "no   tensorrt", "auto chooses:")),
        (("models", "list"), ("upscale-x2-nano",)),
        (("models", "show", "upscale-x2-nano"), ("sha256", "licence", "PSNR-Y gain over lanczos")),
        (("models", "verify"), ("upscale-x2-nano: ok",)),
        (("--version",), (streamer.__version__,)),
        (("--help",), ("enhance", "demo", "doctor", "compare")),
    ],
)
def test_commands_that_tell(arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(clip: Path, tmp_path: Path) -> None:
    job = ("enhance", clip, tmp_path / "out.mkv", "--model", "none", "--json")
    for arguments in (("models", "list"), job):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(command(*arguments), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, "")
    assert len(decoded(tmp_path / "out.mkv")) == 12


def test_every_public_name_resolves() -> None:
    assert {name for name in streamer.__all__ if getattr(streamer, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        streamer.nope  # noqa: B018
