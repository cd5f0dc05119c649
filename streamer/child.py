"""Child processes that carry a stream where PyAV can't: its wheels lack SRT, and its network outputs can't be stopped.

While PyAV connects an output or finishes it, it holds Python's lock, so that a silent peer would stop every thread of
the process; and nothing ends a blocked write. A child can be killed.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from streamer.errors import public_url

log = logging.getLogger(__name__)

CONNECTED = "progress="
"""A line that begins so on the child's standard error says that it has connected."""
WARNING = "warning: "
"""A line that begins so is for the user to know; the child goes on."""

_NOISE = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] |[\d:.]+/SRT:\S+ |@\d+: ?")
_PROGRESS = re.compile(r"\w+=\s*\S*$")
_PATIENCE_S = 2.0


class NoFFmpeg(Exception):
    """There is no FFmpeg program; the message says what to do, beginning with "it needs" or the package's name."""


def ffmpeg(extra: str) -> str:
    """Where the program is. Raises NoFFmpeg, naming the `extra` to install."""
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except ImportError:
        raise NoFFmpeg(f"it needs the {extra} extra: pip install 'streamer-enhancer[{extra}]'") from None
    except RuntimeError as error:  # no binary for this platform
        raise NoFFmpeg(f"imageio-ffmpeg has no FFmpeg for this machine: {error}") from None


class Child:
    """A running program whose standard input or output is a pipe of ours; a thread collects what it complains about.

    For PyAV it is a file to write to. `kill` may be called from any thread: it is the way to wake somebody who reads
    or writes.
    """

    def __init__(
        self, command: Sequence[str], *, writes: bool, secrets: Mapping[str, str] | None = None, title: str = ""
    ) -> None:
        """Starts it; `writes` says that we write into it, `secrets` are added to its environment. Raises OSError.

        `title` is what its warnings are about.
        """
        self._title = title
        self.closed = False
        self.connected = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if writes else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **secrets} if secrets else None,
            bufsize=0,  # a reader gets what is there, not what would fill a buffer
        )
        pipe = self._process.stdin if writes else self._process.stdout
        assert pipe is not None
        self.pipe: IO[bytes] = pipe
        self._said = ""
        self._listener = threading.Thread(target=self._listen, name="complaints", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def complaint(self) -> str:
        """Its first words on standard error, once it has ended or was given a moment to; empty if it said nothing."""
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return ""
        self._listener.join(_PATIENCE_S)
        return self._said

    def write(self, content: bytes) -> int:
        """Writes all of `content` into the pipe. Raises OSError."""
        rest = memoryview(content)
        while rest:
            rest = rest[self.pipe.write(rest) :]
        return len(content)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Lets it finish after its input has ended, for a bounded time, then kills it. Harmless when repeated."""
        self.closed = True
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
            text = line.decode(errors="replace").strip()
            if text.startswith(CONNECTED):
                self.connected.set()
            elif text.startswith(WARNING):
                log.warning("%s: %s", self._title, text.removeprefix(WARNING))
            elif text and not self._said and not _PROGRESS.match(text):
                self._said = public_url(_NOISE.sub("", text))
