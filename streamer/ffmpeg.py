"""The FFmpeg program that imageio-ffmpeg brings along, for what PyAV's wheels lack: SRT, and VMAF elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

_ADDRESS = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] |[\d:.]+/SRT:\S+ |@\d+: ?")
_KEPT_LINES = 20
_PATIENCE_S = 2.0


class NoFFmpeg(Exception):
    """There is no FFmpeg program; the message says what to do, beginning with "it needs" or the package's name."""


def executable(extra: str) -> str:
    """Where the program is. Raises NoFFmpeg, naming the `extra` to install."""
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except ImportError:
        raise NoFFmpeg(f"it needs the {extra} extra: pip install 'streamer-enhancer[{extra}]'") from None
    except RuntimeError as error:  # no binary for this platform
        raise NoFFmpeg(f"imageio-ffmpeg has no FFmpeg for this machine: {error}") from None


class Child:
    """A running FFmpeg whose standard input or output is a pipe of ours; a thread collects what it complains about.

    `kill` may be called from any thread: it is the way to wake somebody who reads or writes `pipe`.
    """

    def __init__(self, extra: str, arguments: Sequence[str], *, writes: bool) -> None:
        """Starts it; `writes` says that we write into it. Raises NoFFmpeg, OSError."""
        self._process = subprocess.Popen(
            [executable(extra), "-v", "error", *arguments],
            stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if writes else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # a reader gets what is there, not what would fill a buffer
        )
        pipe = self._process.stdin if writes else self._process.stdout
        assert pipe is not None
        self.pipe: IO[bytes] = pipe
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, name="ffmpeg-stderr", daemon=True)
        self._listener.start()

    def complaint(self) -> str:
        """Its first words on standard error, once it has ended or was given a moment to; empty if it said nothing."""
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return ""
        self._listener.join(_PATIENCE_S)
        return _ADDRESS.sub("", self._said[0]) if self._said else ""

    def write(self, content: bytes) -> int:
        """Writes all of `content` into the pipe; with this method, a child is a file for PyAV. Raises OSError."""
        rest = memoryview(content)
        while rest:
            rest = rest[self.pipe.write(rest) :]
        return len(content)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Lets it finish after its input has ended, for a bounded time, then kills it. Harmless when repeated."""
        with contextlib.suppress(OSError):  # it is gone already
            self.pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_PATIENCE_S)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode(errors="replace").strip())
