"""The ONNX Runtime engine: the portable second on a CPU."""

from __future__ import annotations

import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from .base import EngineError, SlotBuffers, TensorSpec
from .cpu import CpuEngine
from .model import with_shapes

PROVIDER = "CPUExecutionProvider"
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeEngine(CpuEngine):
    """Runs a network on the CPU with ONNX Runtime.

    One session serves all slots. Each slot in flight is run by a worker thread, which counts
    as one of the threads: on two Zen 4 cores, two pictures with one thread each took a fifth
    less time and an eighth less CPU than one picture at a time with two threads
    (ONNX Runtime 1.31, 640x360 to 1280x720). A second session gained nothing more.
    """

    name = "onnxruntime"
    provider: ClassVar[str] = PROVIDER
    """What ONNX Runtime calls that which computes."""

    def _reset(self) -> None:
        self._session: Any = None
        self._bindings: list[Any] = []
        self._workers: ThreadPoolExecutor | None = None
        self._results: dict[int, Future[None]] = {}

    def _open(self) -> list[SlotBuffers]:
        workers = min(self.slots, self._threads)
        self._session = self._make_session(workers)
        inputs = tuple(_spec(value) for value in self._session.get_inputs())
        outputs = tuple(_spec(value) for value in self._session.get_outputs())
        slots = [SlotBuffers.allocate(inputs, outputs) for _ in range(self.slots)]
        self._bindings = [self._bind(buffers) for buffers in slots]
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="onnxruntime")
        return slots

    def _submit(self, slot: int) -> None:
        if self._workers is not None:
            self._results[slot] = self._workers.submit(self._run, slot)

    def _run(self, slot: int) -> None:
        """On a worker's thread."""
        try:
            self._session.run_with_iobinding(self._bindings[slot])
        finally:
            self._tell(slot)

    def _collect(self, slot: int) -> None:
        self._results[slot].result()

    def _close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=True)
        self._reset()

    def _make_session(self, workers: int) -> Any:
        fixed = with_shapes(self._model, self._shapes)
        vendor = load_onnxruntime(self.name)
        options = vendor.SessionOptions()
        # Workers take part in the computation and share the session's pool beside them.
        options.intra_op_num_threads = max(1, self._threads - workers + 1)
        options.inter_op_num_threads = 1
        # Spinning threads wait for work at the full cost of a core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised; printing them too is noise
        session = vendor.InferenceSession(fixed.content, options, providers=self._providers(vendor))
        running = session.get_providers()
        if running[:1] != [self.provider]:
            raise EngineError(self._refusal(running))
        return session

    def _providers(self, vendor: Any) -> list[Any]:
        """What to ask for, the most wanted first. Raises EngineError if this package can't have it."""
        return [self.provider]

    def _refusal(self, running: list[str]) -> str:
        """What to say when something else runs."""
        return f"the {self.name} engine asked for {self.provider} and got {running}; reinstall onnxruntime"

    def _bind(self, buffers: SlotBuffers) -> Any:
        binding = self._session.io_binding()
        for name, array in buffers.inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in buffers.outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding


def _spec(value: Any) -> TensorSpec:
    unknown = [size for size in value.shape if not isinstance(size, int)]
    if unknown or value.type not in DTYPES:
        raise EngineError(
            f"the onnxruntime engine cannot use {value.name}, {value.type}{value.shape}: every "
            f"size must follow from the inputs, and the type be one of {sorted(DTYPES)}"
        )
    return TensorSpec(value.name, tuple(value.shape), np.dtype(DTYPES[value.type]))


def load_onnxruntime(engine: str) -> Any:
    """The onnxruntime module, with its usage statistics (on Windows) switched off.

    Raises:
        EngineError: not installed; the message is about `engine`.
    """
    extra = "ort" if engine == OnnxRuntimeEngine.name else "gpu"
    try:
        vendor: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"cannot use the {engine} engine: {error}; run: pip install --upgrade 'streamer-enhancer[{extra}]'"
        ) from error
    vendor.disable_telemetry_events()
    return vendor
