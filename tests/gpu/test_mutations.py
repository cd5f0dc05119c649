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
from tests.gpu.device import EAGER, LAZY, SEEDS
from tests.gpu.fixtures import NOTHING
from tests.pixel_models import Array, assert_close, expected, picture, tiny_model

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

HEIGHT, WIDTH, FRAMES = 18, 26, 7
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


def feeds(seed: int) -> dict[str, Array]:
    return {"luma": picture(seed, HEIGHT, WIDTH), "strength": np.ones(1, np.float32)}


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
    noticed = ""
    try:
        run(type("Mutant", (bug,), {}), graphs=graphs)
    except (EngineError, AssertionError) as error:
        noticed = str(error)
    noticed = "\n".join([noticed, *simulated_gpu.violations()])
    if simulated_gpu.live() != NOTHING:
        gc.collect()
    simulated_gpu.reset()  # a broken engine leaves things behind
    assert re.search(told, noticed), noticed
