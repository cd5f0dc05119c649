"""The OpenVINO engine: the default on a CPU."""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .base import EngineError, SlotBuffers, TensorSpec
from .cpu import CpuEngine
from .model import with_shapes


class OpenVINOEngine(CpuEngine):
    """Runs a network on the CPU with OpenVINO.

    Two inferences in flight, each on its own stream, are the default: on two busy Zen 4 cores
    that took 8 to 14 % less CPU per frame than both cores sharing one picture
    (OpenVINO 2026.4, 640x360 to 1280x720), and on idle ones it was never slower. Activations
    are held once per stream.

    Engines of one process that run the same network at the same size share its compiled form,
    each with requests and buffers of its own: a second one then takes 3 MiB instead of 28
    (upscale-x2-nano at 640x360) or 12 MiB instead of 137 (upscale-x2-medium at 1280x720), and no
    time to compile. Their inferences take turns on the streams, as they would on the cores.

    Where somebody wants to hear of every end, a thread waits for them in order. OpenVINO's own
    callbacks need Python's lock, which a thread that releases a model holds while it waits for
    theirs (2026.4): now and then both wait for ever.
    """

    name = "openvino"

    def _reset(self) -> None:
        self._requests: list[Any] = []
        self._compiled: Any = None
        self._watcher: ThreadPoolExecutor | None = None
        self._ends: dict[int, Future[None]] = {}

    def _open(self) -> list[SlotBuffers]:
        fixed = with_shapes(self._model, self._shapes)
        vendor = _vendor()
        with _opening:
            compiled = self._compiled = _compile(vendor, fixed.content, self._settings())
            inputs = tuple(_spec(name, compiled.input(name)) for name in fixed.inputs)
            outputs = tuple(_spec(name, compiled.output(name)) for name in fixed.outputs)
            slots = [SlotBuffers.allocate(inputs, outputs) for _ in range(self.slots)]
            for buffers in slots:
                request = compiled.create_infer_request()
                for name, array in (buffers.inputs | buffers.outputs).items():
                    request.set_tensor(name, vendor.Tensor(array, shared_memory=True))
                self._requests.append(request)
        if self.on_done is not None:
            self._watcher = ThreadPoolExecutor(1, thread_name_prefix="openvino")
        return slots

    def _submit(self, slot: int) -> None:
        self._requests[slot].start_async()
        if self._watcher is not None:
            self._ends[slot] = self._watcher.submit(self._watch, slot)

    def _watch(self, slot: int) -> None:
        """On the watcher's thread."""
        try:
            self._requests[slot].wait()
        finally:
            self._tell(slot)

    def _collect(self, slot: int) -> None:
        if self._watcher is None:
            self._requests[slot].wait()
        else:
            self._ends[slot].result()

    def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.shutdown(wait=True)
        self._reset()

    def _settings(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": min(self.slots, self._threads),
            # Decoder and encoder want the same cores: pinned threads would wait for one while another is free.
            "ENABLE_CPU_PINNING": False,
            # Without this, a CPU that has bfloat16 silently computes in it.
            "INFERENCE_PRECISION_HINT": "f32",
        }


_compiled_models: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
"""By network and settings; each stays as long as an engine has it open."""
_opening = threading.Lock()
"""Held while an engine is opened. Two streams that start together compile once; and two threads that ask OpenVINO
2026.4 for an element type for the first time wait for each other for ever, one with Python's lock, one with its own."""


def _compile(vendor: Any, content: bytes, settings: dict[str, Any]) -> Any:
    key = (hashlib.sha256(content).digest(), *settings.items())
    compiled = _compiled_models.get(key)
    if compiled is None:
        core = vendor.Core()
        # It gives the thread that compiles an alternate signal stack (2026.4), which can be gone before the thread, and
        # a signal then crashes it. So no thread of the caller's compiles.
        with ThreadPoolExecutor(1, thread_name_prefix="openvino-compile") as own:
            compiled = own.submit(core.compile_model, core.read_model(content), "CPU", settings).result()
        _compiled_models[key] = compiled
    return compiled


def _spec(name: str, port: Any) -> TensorSpec:
    return TensorSpec(name, tuple(port.shape), np.dtype(port.element_type.to_dtype()))


def _vendor() -> Any:
    """The openvino module, imported without its usage statistics.

    On import, its model converter writes an identifier into the home directory, starts a
    thread and reports to a server, if it finds the package openvino_telemetry. None in the
    table of modules means "cannot be imported", and the converter then does without.
    """
    modules: dict[str, Any] = sys.modules
    quiet = "openvino" not in modules and "openvino_telemetry" not in modules
    if quiet:
        modules["openvino_telemetry"] = None
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(f"cannot use the openvino engine: {error}; run: pip install --upgrade openvino") from error
    finally:
        if quiet:
            del modules["openvino_telemetry"]
