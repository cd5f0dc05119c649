"""A slot: everything that one inference in flight needs, allocated once."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base import Array, EngineError, SlotBuffers, TensorSpec
from .cuda import DownloadMemory
from .graph import Graph

if TYPE_CHECKING:
    from .cuda import Gpu

Specs = tuple[TensorSpec, ...]

_ALIGNMENT = 256
"""Bytes that TensorRT wants every tensor's address to be a multiple of."""


class InferenceRefusedError(Exception):
    """TensorRT did not enqueue an inference; why is in the journal."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The streams that all slots share. Work on one waits for work on another only through events."""

    upload: Any
    compute: Any
    download: Any

    @classmethod
    def make(cls, gpu: Gpu) -> Lanes:
        """In the current context."""
        return cls(gpu.stream(), gpu.stream(), gpu.stream())


class Block:
    """Several tensors behind each other in one piece of memory, so that one copy moves them all."""

    def __init__(self, specs: Specs) -> None:
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._specs = specs
        for spec in sorted(specs, key=lambda spec: -size_of(spec)):  # the large one first: nothing to pad before it
            self.offsets[spec.name] = -(-self.size // _ALIGNMENT) * _ALIGNMENT
            self.size = self.offsets[spec.name] + size_of(spec)

    def views(self, block: Array) -> dict[str, Array]:
        """The tensors in a uint8 `[size]` block."""
        return {
            spec.name: block[self.offsets[spec.name] :][: size_of(spec)].view(spec.dtype).reshape(spec.shape)
            for spec in self._specs
        }


class Slot:
    """One execution context, its buffers on both sides, and the events that order its work.

        upload:   copy in ─ uploaded
        compute:            └─ infer ─ computed
        download:                      └─ copy out ─ done     (the host waits for this one only)

    As a graph, all three are one launch on a stream of the slot's own; slots then overlap by their streams.
    """

    def __init__(self, gpu: Gpu, context: Any, lanes: Lanes, inputs: Specs, outputs: Specs) -> None:
        """Allocate everything, in the current context.

        Args:
            gpu: the device.
            context: an execution context of this slot's own, or None if TensorRT had no memory for one.
            lanes: shared by all slots.
            inputs, outputs: of the network.

        Raises:
            MemoryError, pycuda.driver.MemoryError: not enough memory on either side.
            EngineError: TensorRT doesn't take the shapes.
        """
        self._gpu = gpu
        self._lanes: Lanes | None = lanes
        self._graph: Graph | None = None
        self._own: Any = None  # the graph's stream
        self._on_device: list[Any] = []
        self._host_in: Array | None = None
        self._download: DownloadMemory | None = None
        self.buffers = SlotBuffers({}, {})
        self.uploaded: Any = gpu.event()
        self.computed: Any = gpu.event()
        self.done: Any = gpu.event(waited_for=True)
        self._context = context
        if self._context is None:
            raise MemoryError("TensorRT has no memory for another execution context")
        up, down = Block(inputs), Block(outputs)
        try:
            for size in (up.size, down.size):
                self._on_device.append(gpu.device_memory(size))
            self._host_in = gpu.upload_memory(up.size)
            self._host_in[:] = 0
            self._download = DownloadMemory(down.size)
            self.buffers = SlotBuffers(up.views(self._host_in), down.views(self._download.block))
            self._set_addresses(inputs, outputs, up, down)
        except BaseException:
            self.release()
            raise

    def submit(self) -> None:
        """Enqueue one inference and return at once.

        Raises:
            pycuda.driver.Error, RuntimeError, InferenceRefusedError: not enqueued; the slot is idle again.
        """
        try:
            if self._graph is not None:
                self._graph.launch(self._own)
                self.done.record(self._own)
            else:
                self._enqueue()
        except BaseException:
            self._drain()  # half of it may be under way, and the slot's memory is free for others after this
            raise

    def wait(self) -> None:
        """Block, without Python's lock, until the outputs are in host memory. Raises pycuda.driver.Error."""
        self.done.synchronize()

    def capture(self) -> None:
        """Turn the slot's work into a graph; it must have run once, and not be running.

        Raises:
            NotCapturableError: it goes on without.
        """
        self._own = self._gpu.stream()
        self._graph = Graph(self._own, lambda: self._enqueue_on(self._own))

    def release_context(self) -> None:
        """Destroy the execution context, which TensorRT wants done before its engine; nothing may be in flight."""
        self._context = None

    def release(self) -> None:
        """Free the rest; nothing may be in flight."""
        self._context = self.uploaded = self.computed = self.done = self._own = self._lanes = None
        self.buffers = SlotBuffers({}, {})
        with contextlib.ExitStack() as steps:  # all of them, even if one fails
            for memory in self._on_device:
                steps.callback(memory.free)
            if self._host_in is not None:
                steps.callback(self._gpu.free_upload_memory, self._host_in)
            if self._download is not None:
                steps.callback(self._download.release)
            if self._graph is not None:
                steps.callback(self._graph.release)
        self._on_device, self._host_in, self._graph = [], None, None

    def _enqueue(self) -> None:
        lanes = self._lanes
        assert lanes is not None
        self._upload(lanes.upload)
        self.uploaded.record(lanes.upload)
        self._after_upload(lanes.compute)
        self._infer(lanes.compute)
        self.computed.record(lanes.compute)
        self._after_inference(lanes.download)
        self._download_on(lanes.download)
        self.done.record(lanes.download)

    def _enqueue_on(self, stream: Any) -> None:
        self._upload(stream)
        self._infer(stream)
        self._download_on(stream)

    def _upload(self, stream: Any) -> None:
        self._gpu.pycuda.memcpy_htod_async(self._on_device[0], self._host_in, stream)

    def _after_upload(self, stream: Any) -> None:
        stream.wait_for_event(self.uploaded)

    def _infer(self, stream: Any) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise InferenceRefusedError("TensorRT refused the inference")

    def _after_inference(self, stream: Any) -> None:
        stream.wait_for_event(self.computed)

    def _download_on(self, stream: Any) -> None:
        assert self._download is not None
        self._gpu.pycuda.memcpy_dtoh_async(self._download.block, self._on_device[1], stream)

    def _drain(self) -> None:
        lanes = self._lanes
        assert lanes is not None
        for stream in (lanes.upload, lanes.compute, lanes.download, self._own):
            if stream is not None:
                with contextlib.suppress(self._gpu.pycuda.Error):  # what went wrong first is told
                    stream.synchronize()

    def _set_addresses(self, inputs: Specs, outputs: Specs, up: Block, down: Block) -> None:
        for spec in inputs:
            self._set_shape(spec)
        for spec in outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if shape != spec.shape:
                raise EngineError(f"TensorRT gives {spec.name} {list(shape)}, where {spec} was expected")
        for specs, block, memory in ((inputs, up, self._on_device[0]), (outputs, down, self._on_device[1])):
            for spec in specs:
                self._set_address(spec.name, int(memory) + block.offsets[spec.name])

    def _set_shape(self, spec: TensorSpec) -> None:
        if not self._context.set_input_shape(spec.name, spec.shape):
            raise EngineError(f"TensorRT does not take {spec}: it is outside of what the plan was built for")

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"TensorRT does not take an address for {name}")


def size_of(spec: TensorSpec) -> int:
    """Its bytes."""
    return math.prod(spec.shape) * spec.dtype.itemsize
