"""CUDA graphs: a slot's upload, inference and download as one launch.

pycuda has none, so this goes through cuda-bindings, which works on pycuda's streams and its current context.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class NotCapturableError(Exception):
    """The work can't become a graph here; the message says why. It can still be enqueued piece by piece."""


class Graph:
    """Work captured from a stream, ready to be launched again and again with the same addresses."""

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        """Capture what `enqueue` puts on `stream`, without running it.

        The same work must have run once before, because TensorRT allocates on its first run.

        Raises:
            NotCapturableError: no cuda-bindings, or something in the work can't be captured.
        """
        self._cuda = _bindings()
        self._executable: Any = None
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream.handle, mode)
        problem = ""  # not the error itself, whose frames would keep streams and buffers alive
        try:
            enqueue()
        except Exception as error:  # the capture must be ended whatever went wrong in it
            problem = str(error) or type(error).__name__
        try:
            (graph,) = self._call("cuStreamEndCapture", stream.handle)
        except NotCapturableError as error:
            raise NotCapturableError(problem or str(error)) from None
        try:
            if problem:
                raise NotCapturableError(problem)
            (self._executable,) = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._cuda.cuGraphDestroy(graph)

    def launch(self, stream: Any) -> None:
        """Enqueue all of it. Raises RuntimeError if the driver refuses."""
        (result,) = self._cuda.cuGraphLaunch(self._executable, stream.handle)
        if result:
            raise RuntimeError(f"cuGraphLaunch failed: {result.name}")

    def release(self) -> None:
        """Destroy it; it must not be running. Twice is harmless."""
        if self._executable is not None:
            self._cuda.cuGraphExecDestroy(self._executable)
            self._executable = None

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        try:
            result, *values = getattr(self._cuda, name)(*arguments)
        except Exception as error:  # of several types, where bindings and driver don't fit
            raise NotCapturableError(f"{name}: {error}") from None
        if result:
            raise NotCapturableError(f"{name}: the driver says {result.name}")
        return tuple(values)


def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NotCapturableError(f"cuda-bindings is not installed ({error})") from error
