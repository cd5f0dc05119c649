"""Building a plan in a child process, while this one works on something else.

A build takes from seconds to minutes, holds the interpreter's lock now and then, and may crash; nothing of that reaches
this process. What passes between the two is the cache of plans: once the child has ended well, opening the same engine
finds the plan there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from .base import EngineError, vendor_reason
from .plans import build_engine
from .request import EngineRequest

COMMAND = (sys.executable, "-c", "from engines.background import main; main()")
_LESS_URGENT = 10
"""On Unix, the child's niceness: decoder, network and encoder of the running job come first."""


class PlanBuild:
    """One build in a child process. Any one thread starts, asks and stops it."""

    def __init__(self, request: EngineRequest) -> None:
        """Store what to build, see `build_engine`; the model must be a file."""
        self._request = request
        self._child: subprocess.Popen[bytes] | None = None
        self._output: Any = None

    def start(self) -> None:
        """Start the child.

        Raises:
            EngineError: the system refuses to.
        """
        environment = {**os.environ, "PYTHONPATH": _module_path()}
        # A terminal's Ctrl-C is for this process, which may have a file to finish; it then stops the child.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # not a pipe: that would block a child that says much
        try:
            self._child = subprocess.Popen(
                [*COMMAND, self._request.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._output,
                env=environment,
                **group,
            )
        except OSError as error:
            self.stop()
            raise EngineError(f"cannot start a process that builds a plan: {error.strerror or error}") from error

    @property
    def ended(self) -> bool:
        """Whether the child has ended, well or not. Costs one system call."""
        return self._child is not None and self._child.poll() is not None

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        assert self._child is not None
        self._child.wait(timeout_s)

    def kill(self) -> None:
        """Let a `wait` on another thread return soon. Any thread; `stop` is still to be called."""
        child = self._child
        if child is not None:
            child.kill()

    def failure(self) -> str:
        """After the end: why there is no plan, or nothing if all went well."""
        assert self._child is not None
        code = self._child.returncode
        if code == 0:
            return ""
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the process that builds it {ended}{f': {lines[-1]}' if lines else ''}"

    def stop(self) -> None:
        """End the child, if it runs, and release what it used. Twice is harmless."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            if self._child.stdin is not None:
                with contextlib.suppress(OSError):
                    self._child.stdin.close()
            self._child = None
        if self._output is not None:
            self._output.close()
            self._output = None


def main() -> None:
    """What the child does: build what its argument says, and end with it. Its last line says what went wrong."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if hasattr(os, "nice"):
        os.nice(_LESS_URGENT)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        build_engine(EngineRequest.from_json(sys.argv[-1]))
    except EngineError as error:
        print(vendor_reason(error), file=sys.stderr)
        sys.exit(1)


def _end_with_parent() -> None:
    """The parent writes nothing, so reading ends when it does, however that came about."""
    os.read(0, 1)
    os._exit(1)


def _module_path() -> str:
    """Where the child finds this package: it may be run from a checkout."""
    here = str(Path(__file__).parents[1])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
