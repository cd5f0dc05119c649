"""Real peers for the live tests: FFmpeg processes that send and receive, free ports, and a reader of a live source."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from streamer.frame import Frame
from streamer.stage import Source

LIMIT_S = 30


def ffmpeg() -> str:
    """The program of imageio-ffmpeg; skips the test without it."""
    package = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is the peer of this test")
    return str(package.get_ffmpeg_exe())


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(arguments: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone afterwards, stopped or not."""
    running = subprocess.Popen(
        arguments,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},  # type: ignore[call-overload]  # of many types
    )
    try:
        yield running
    finally:
        running.kill()
        running.send_signal(signal.SIGCONT)
        running.wait(LIMIT_S)


def sender(*output: str, size: str = "160x90", rate: int = 25, sound: bool = False, picture: bool = True) -> list[str]:
    """The command of an FFmpeg that sends a test picture (and a tone) in real time; `output`: options and URL."""
    command = [ffmpeg(), "-nostdin", "-v", "error"]
    encoders: list[str] = []
    if picture:
        command += ["-re", "-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}"]
        encoders += [
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "zerolatency",
            "-g",
            "12",
            "-pix_fmt",
            "yuv420p",
        ]
    if sound:
        command += ["-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
        encoders += ["-c:a", "aac"]
    return [*command, *encoders, *output]


def to_rtsp(url: str) -> tuple[str, ...]:
    return ("-f", "rtsp", "-rtsp_transport", "tcp", url)


class Reader:
    """Reads a source on a thread of its own, as the pipeline's capture does, and keeps what a test wants to know."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.frames: list[Frame] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.interrupt()
        self.join()

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds; it is looked at after every frame."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or self.error is not None, LIMIT_S)
        if self.error is not None:
            raise self.error

    def wait_while_runs(self, running: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds or the process has ended."""
        with self._changed:
            while running.poll() is None and not condition():
                self._changed.wait(0.1)

    def wait_frames(self, number: int) -> None:
        """Returns when that many more frames came."""
        goal = len(self.frames) + number
        self.wait(lambda: len(self.frames) >= goal)

    def wait_count(self, event: str, number: int) -> None:
        self.wait(lambda: self.source.counts.get(event, 0) >= number)

    def wait_own_picture(self, number: int = 5) -> None:
        """Returns when that many frames in a row were the source's own, not stand-ins."""
        seen = self.source.counts.get("stand-in frames", 0)
        start = len(self.frames)

        def own() -> bool:
            nonlocal seen, start
            now = self.source.counts.get("stand-in frames", 0)
            if now > seen:
                seen, start = now, len(self.frames)
            return len(self.frames) - start >= number

        self.wait(own)

    @property
    def times(self) -> list[Fraction]:
        return [frame.time for frame in self.frames]

    def _run(self) -> None:
        try:
            self.source.open()
            while (frame := self.source.read()) is not None:
                with self._changed:
                    self.frames.append(frame)
                    self._changed.notify_all()
        except BaseException as error:  # handed to the test
            self.error = error
        finally:
            self.source.close()
            with self._changed:
                self._changed.notify_all()


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def has_imageio() -> bool:
    return importlib.util.find_spec("imageio_ffmpeg") is not None


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """An HTTP server's address, behind which the files of a folder are."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(LIMIT_S)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...
