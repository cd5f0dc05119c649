"""Every bug that the slot's order of work prevents, put in on purpose: the simulated GPU must notice each of them."""

from __future__ import annotations

import gc
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines import EngineError, TensorRTEngine
from engines.tensorrt.slot import Block, Slot
from engines.tensorrt.state import DeviceState, StatefulSlot
from tests.gpu.device import EAGER, LAZY, SEEDS
from tests.gpu.fixtures import NOTHING
from tests.pixel_models import assert_close, expected, picture, stateful_model, tiny_model
from tests.test_engines import HEIGHT, WIDTH, feeds
from tests.test_state import STATE_SHAPES, means

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gpu.device import SimulatedGpu

FRAMES = 7
INVALID_VALUE = 1
ORDERS = (LAZY, EAGER, *SEEDS)


class NoFinalWait(Slot):
    def wait(self) -> None:
        pass


class NoUploadWait(Slot):
    def _after_upload(self, stream: Any) -> None:
        pass


class NoInferenceWait(Slot):
    def _after_inference(self, stream: Any) -> None:
        pass


class DoneTooEarly(Slot):
    def _enqueue(self) -> None:
        super()._enqueue()
        assert self._lanes is not None
        self.done.record(self._lanes.upload)


class GraphOnTheWrongStream(Slot):
    def submit(self) -> None:
        super().submit()
        assert self._lanes is not None
        self.done.record(self._lanes.download)


class HostOverwrites(Slot):
    def submit(self) -> None:
        super().submit()
        assert self._host_in is not None
        self._host_in[0] = 0


class HostReadsEarly(Slot):
    def submit(self) -> None:
        super().submit()
        assert self._download is not None
        self._download.block.copy()


class FreedEarly(Slot):
    def _after_inference(self, stream: Any) -> None:
        super()._after_inference(stream)
        self._on_device[1].free()


class UnlockedEarly(Slot):
    def submit(self) -> None:
        super().submit()
        assert self._download is not None
        self._download.release()


class PageableUpload(Slot):
    def _upload(self, stream: Any) -> None:
        assert self._host_in is not None
        pageable = np.zeros(self._host_in.size, np.uint8)
        self._gpu.pycuda.memcpy_htod_async(self._on_device[0], pageable, stream)
        stream.synchronize()


class OutOfBounds(Slot):
    def _download_on(self, stream: Any) -> None:
        assert self._download is not None
        self._gpu.pycuda.memcpy_dtoh_async(self._download.block, int(self._on_device[1]) + 8, stream)


class NoAddress(Slot):
    def _set_addresses(self, inputs: Any, outputs: Any, up: Block, down: Block) -> None:
        super()._set_addresses(inputs, (), up, down)


class NoShape(Slot):
    def _set_addresses(self, inputs: Any, outputs: Any, up: Block, down: Block) -> None:
        self._context.set_input_shape = lambda name, shape: True
        super()._set_addresses(inputs, outputs, up, down)


class SharedMemory(Slot):
    """All slots upload into the same device memory: the next upload overwrites what an inference may still read."""

    first: Any = None

    def _set_addresses(self, inputs: Any, outputs: Any, up: Block, down: Block) -> None:
        if self.first is None:
            type(self).first = self._on_device[0]
        else:
            self._on_device[0].free()
            self._on_device[0] = self.first
        super()._set_addresses(inputs, outputs, up, down)

    def release(self) -> None:
        self._on_device = self._on_device[1:]  # one of them would free it again
        super().release()


class ForeignThread(Slot):
    def submit(self) -> None:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(super().submit).result()


class ForeignThreadWithContext(Slot):
    def submit(self) -> None:
        def on_that_thread() -> None:
            with self._gpu.current():
                super(ForeignThreadWithContext, self).submit()

        with ThreadPoolExecutor(1) as executor:
            executor.submit(on_that_thread).result()


EVENTS, GRAPHS = (False,), (True,)
BOTH = (False, True)
BUGS: list[tuple[type[Slot], tuple[bool, ...], str]] = [
    (NoFinalWait, BOTH, "host touched pinned memory"),
    (NoUploadWait, EVENTS, "race: inference .* reads what may not be written yet by upload"),
    (NoInferenceWait, EVENTS, "race: download .* reads what may not be written yet by inference"),
    (DoneTooEarly, EVENTS, "host touched pinned memory"),
    (GraphOnTheWrongStream, GRAPHS, "host touched pinned memory"),
    (HostOverwrites, BOTH, "host touched pinned memory"),
    (HostReadsEarly, BOTH, "host touched pinned memory"),
    (FreedEarly, EVENTS, "outside of allocated device memory"),
    (UnlockedEarly, BOTH, "cuMemHostUnregister while download"),
    (PageableUpload, EVENTS, "from pageable memory"),
    (OutOfBounds, BOTH, "outside of allocated device memory"),
    (NoAddress, BOTH, "refused the inference"),
    (NoShape, BOTH, "refused the inference"),
    (SharedMemory, BOTH, "race: upload .* overwrites what may still be read by inference"),
    (ForeignThread, EVENTS, "without a context"),
    (ForeignThreadWithContext, BOTH, "from a thread that did not make the stream"),
]
CASES = [
    pytest.param(bug, graphs, told, id=f"{bug.__name__}-{graphs}") for bug, modes, told in BUGS for graphs in modes
]


def run(slot_type: type[Slot], *, graphs: bool) -> None:
    """Several frames with as many in flight as there are slots, each compared with what it must be."""
    kind = type("Changed", (TensorRTEngine,), {"slot_type": slot_type})
    with kind(tiny_model(), {"luma": (1, 1, HEIGHT, WIDTH)}, graphs=graphs) as engine:
        flying: list[tuple[int, Any]] = []
        for seed in range(FRAMES):
            if len(flying) == engine.slots:
                known, ticket = flying.pop(0)
                assert_close(engine.collect(ticket)["enhanced"], expected(picture(known, HEIGHT, WIDTH), 1.0))
            flying.append((seed, engine.submit(feeds(seed))))
        for known, ticket in flying:
            assert_close(engine.collect(ticket)["enhanced"], expected(picture(known, HEIGHT, WIDTH), 1.0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("graphs", BOTH)
def test_without_a_bug_nothing_is_noticed(simulated_gpu: SimulatedGpu, order: int, graphs: bool) -> None:
    simulated_gpu.set_order(order)
    run(Slot, graphs=graphs)
    assert simulated_gpu.violations() == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("bug", "graphs", "told"), CASES)
def test_every_bug_is_noticed(
    simulated_gpu: SimulatedGpu, bug: type[Slot], graphs: bool, told: str, order: int
) -> None:
    simulated_gpu.set_order(order)
    slot_type = type("Mutant", (bug,), {})
    check_noticed(simulated_gpu, told, lambda: run(slot_type, graphs=graphs))


# --- a state that stays on the device


class OnAStreamOfItsOwn(StatefulSlot):
    """Its inferences wait for their upload, and nothing for the inference before."""

    _apart: Any = None

    def _after_upload(self, stream: Any) -> None:
        self._apart = self._apart or self._gpu.stream()
        super()._after_upload(self._apart)

    def _infer(self, stream: Any) -> None:
        super()._infer(self._apart)
        self.computed.record(self._apart)
        stream.wait_for_event(self.computed)


class TheSameHalfAgain(StatefulSlot):
    def _advance(self) -> None:
        pass


class EverySlotItsOwnTurn(StatefulSlot):
    """Each begins with half 0 and changes sides, whatever the others do."""

    def _infer(self, stream: Any) -> None:
        shared, self._state.turn = self._state.turn, getattr(self, "_own_turn", 0)
        super()._infer(stream)
        self._own_turn, self._state.turn = 1 - self._state.turn, shared


class TurnedBeforeItIsSubmitted(StatefulSlot):
    """An inference that is refused then takes the state with it."""

    def submit(self) -> None:
        self._advance()
        Slot.submit(self)


class ReadsWhatItWrites(StatefulSlot):
    def _bind(self, turn: int) -> None:
        super()._bind(turn)
        for name, address in self._state.addresses(turn).items():
            if name.endswith("_next"):
                self._set_address(name.removesuffix("_next"), address)


class CapturedForOneTurn(StatefulSlot):
    def _bind(self, turn: int) -> None:
        super()._bind(0)


class HalfFreedEarly(StatefulSlot):
    def _infer(self, stream: Any) -> None:
        super()._infer(stream)
        self._state._halves[self._state.turn].free()


FEW_ORDERS = (LAZY, SEEDS[0])
"""The race detector finds what it finds in every order, and so does a look at the results."""
STATE_BUGS: list[tuple[type[StatefulSlot], tuple[bool, ...], str]] = [
    (OnAStreamOfItsOwn, BOTH, "race: inference .* (reads what may not be written yet|overwrites what may still be)"),
    (TheSameHalfAgain, BOTH, "frame 1 is wrong"),
    (EverySlotItsOwnTurn, BOTH, "frame 1 is wrong"),
    (TurnedBeforeItIsSubmitted, BOTH, "after a refusal"),
    (ReadsWhatItWrites, BOTH, "frame 1 is wrong"),
    (CapturedForOneTurn, BOTH, "frame 1 is wrong"),
    (HalfFreedEarly, EVENTS, "uses freed memory"),
]
STATE_CASES = [
    pytest.param(bug, graphs, told, id=f"{bug.__name__}-{graphs}")
    for bug, modes, told in STATE_BUGS
    for graphs in modes
]


def run_with_state(gpu: SimulatedGpu, slot_type: type[StatefulSlot], *, graphs: bool) -> None:
    """The same with a network that has a state; one inference in the middle is refused."""
    kind = type("Changed", (TensorRTEngine,), {"stateful_slot_type": slot_type})
    wanted = means(2 * FRAMES)
    flying: list[tuple[int, Any]] = []
    with kind(stateful_model(), STATE_SHAPES, graphs=graphs) as engine:

        def check() -> None:
            number, ticket = flying.pop(0)
            right = np.array_equal(engine.collect(ticket)["enhanced"], wanted[number])
            assert right, f"frame {number} is wrong{', after a refusal' if number >= FRAMES else ''}"

        for number in range(2 * FRAMES):
            if len(flying) == engine.slots:
                check()
            if number == FRAMES:
                gpu.fail("cuMemcpyHtoDAsync", INVALID_VALUE)
                with pytest.raises(EngineError, match="cuMemcpyHtoDAsync failed"):
                    engine.submit(feeds(0))
            flying.append((number, engine.submit(feeds(number))))
        while flying:
            check()


@pytest.mark.parametrize("order", FEW_ORDERS)
@pytest.mark.parametrize("graphs", BOTH)
def test_without_a_bug_a_state_is_in_order(simulated_gpu: SimulatedGpu, order: int, graphs: bool) -> None:
    simulated_gpu.set_order(order)
    run_with_state(simulated_gpu, StatefulSlot, graphs=graphs)
    assert simulated_gpu.violations() == []


@pytest.mark.parametrize("order", FEW_ORDERS)
@pytest.mark.parametrize(("bug", "graphs", "told"), STATE_CASES)
def test_every_bug_of_a_state_is_noticed(
    simulated_gpu: SimulatedGpu, bug: type[StatefulSlot], graphs: bool, told: str, order: int
) -> None:
    simulated_gpu.set_order(order)
    slot_type = type("Mutant", (bug,), {})
    check_noticed(simulated_gpu, told, lambda: run_with_state(simulated_gpu, slot_type, graphs=graphs))


@pytest.mark.parametrize("order", FEW_ORDERS)
def test_a_state_that_is_not_cleared_is_noticed(
    simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    simulated_gpu.set_order(order)
    monkeypatch.setattr(DeviceState, "clear", lambda self, stream: None)
    check_noticed(simulated_gpu, "frame 0 is wrong", lambda: run_with_state(simulated_gpu, StatefulSlot, graphs=True))


def check_noticed(gpu: SimulatedGpu, told: str, run: Callable[[], None]) -> None:
    noticed = ""
    try:
        run()
    except (EngineError, AssertionError) as error:
        noticed = str(error)
    noticed = "\n".join([noticed, *gpu.violations()])
    if gpu.live() != NOTHING:
        gc.collect()
    gpu.reset()  # a broken engine leaves things behind
    assert re.search(told, noticed), noticed
