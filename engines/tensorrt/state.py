"""The state of a network on the device, and the slots that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .graph import Graph, NotCapturableError
from .slot import Block, Slot

if TYPE_CHECKING:
    from ..base import TensorSpec
    from .cuda import Gpu
    from .slot import Lanes, Specs


class DeviceState:
    """What one inference leaves to the next: two halves in turn, of which it reads one and writes the other.

        compute:  n - 1: reads 0, writes 1 | n: reads 1, writes 0 | n + 1: reads 0, writes 1 | ...

    Nothing is copied, and the host sees none of it. All inferences run on one stream in the order of `submit`, so none
    begins before the last one has ended.
    """

    def __init__(self, gpu: Gpu, specs: tuple[TensorSpec, ...], carried: dict[str, str]) -> None:
        """Allocate both halves, in the current context; they hold anything.

        Args:
            gpu: the device.
            specs: of what is read.
            carried: by the name of what is read, the name of what is written.
        """
        self.specs = specs
        self._gpu, self._carried, self._block = gpu, carried, Block(specs)
        self._halves: list[Any] = []
        self.turn = 0
        """The half that the next inference reads."""
        try:
            for _ in range(2):
                self._halves.append(gpu.device_memory(self._block.size))
        except BaseException:
            self.release()
            raise

    @property
    def nbytes(self) -> int:
        """Of the device's memory: twice the tensors, each from a multiple of 256 bytes."""
        return len(self._halves) * self._block.size

    def addresses(self, turn: int) -> dict[str, int]:
        """Of what is read and what is written, for an inference that reads this half."""
        read, written = int(self._halves[turn]), int(self._halves[1 - turn])
        offsets = self._block.offsets
        return {name: read + offset for name, offset in offsets.items()} | {
            self._carried[name]: written + offset for name, offset in offsets.items()
        }

    def clear(self, stream: Any) -> None:
        """Zero both halves, in the order of the stream on which the inferences are."""
        for half in self._halves:
            self._gpu.pycuda.memset_d8_async(int(half), 0, self._block.size, stream)

    def release(self) -> None:
        """Free them; no inference may be in flight. Twice is harmless."""
        halves, self._halves = self._halves, []
        for half in halves:
            half.free()


class StatefulSlot(Slot):
    """A slot of a network with state.

    It always uses the shared lanes, whose compute stream is what orders the inferences; copies of other slots overlap
    with them as ever. The inference alone becomes a graph, one for each half of the state that it may read, because a
    graph's addresses are fixed.
    """

    def __init__(self, gpu: Gpu, context: Any, lanes: Lanes, inputs: Specs, outputs: Specs, state: DeviceState) -> None:
        """As `Slot`; `state` is shared by all slots, and not in `inputs` and `outputs`."""
        self._state = state
        self._graphs: list[Graph] = []
        super().__init__(gpu, context, lanes, inputs, outputs)

    def submit(self) -> None:
        super().submit()
        self._advance()

    def capture(self) -> None:
        own, graphs = self._gpu.stream(), list[Graph]()
        try:
            for turn in range(2):
                self._bind(turn)
                graphs.append(Graph(own, lambda: super(StatefulSlot, self)._infer(own)))
        except NotCapturableError:
            for graph in graphs:
                graph.release()
            raise
        self._graphs = graphs

    def release(self) -> None:
        for graph in self._graphs:
            graph.release()
        self._graphs = []
        super().release()

    def _infer(self, stream: Any) -> None:
        if self._graphs:
            self._graphs[self._state.turn].launch(stream)
        else:
            self._bind(self._state.turn)
            super()._infer(stream)

    def _set_addresses(self, inputs: Specs, outputs: Specs, up: Block, down: Block) -> None:
        for spec in self._state.specs:
            self._set_shape(spec)
        super()._set_addresses(inputs, outputs, up, down)

    def _bind(self, turn: int) -> None:
        for name, address in self._state.addresses(turn).items():
            self._set_address(name, address)

    def _advance(self) -> None:
        """After an inference is on its way, and only then: the next one reads what this one writes."""
        self._state.turn = 1 - self._state.turn
