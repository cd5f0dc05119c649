"""The simulated GPU itself, through the real pycuda: it defers, and it notices what it should."""

from __future__ import annotations

import ctypes
import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines.tensorrt.cuda import DownloadMemory, Gpu
from engines.tensorrt.graph import Graph, NotCapturableError
from tests.gpu.device import EAGER, LAZY, SEEDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gpu.device import SimulatedGpu

SIZE = 1000


@pytest.fixture(name="cuda")
def _cuda(simulated_gpu: SimulatedGpu) -> Iterator[Gpu]:
    gpu = Gpu(0)
    with gpu.current():
        yield gpu
        gc.collect()  # caught errors hold on to streams
    gpu.release()


class Work:
    """An upload and a download on streams of their own."""

    def __init__(self, cuda: Gpu) -> None:
        self.cuda = cuda
        self.up, self.down, self.uploaded, self.done = cuda.stream(), cuda.stream(), cuda.event(), cuda.event()
        self.source, self.target = cuda.upload_memory(SIZE), DownloadMemory(SIZE)
        self.memory = cuda.device_memory(SIZE)

    def enqueue(self, *, wait: bool = True) -> None:
        self.cuda.pycuda.memcpy_htod_async(self.memory, self.source, self.up)
        self.uploaded.record(self.up)
        if wait:
            self.down.wait_for_event(self.uploaded)
        self.cuda.pycuda.memcpy_dtoh_async(self.target.block, self.memory, self.down)
        self.done.record(self.down)

    def release(self) -> None:
        self.up.synchronize()
        self.down.synchronize()
        self.target.release()
        self.cuda.free_upload_memory(self.source)
        self.memory.free()
        del self.up, self.down, self.uploaded, self.done


@pytest.fixture(name="work")
def _work(cuda: Gpu) -> Iterator[Work]:
    work = Work(cuda)
    work.source[:] = 7
    yield work
    work.release()


@pytest.mark.parametrize("order", [LAZY, EAGER, *SEEDS])
def test_the_result_is_there_after_the_wait(simulated_gpu: SimulatedGpu, work: Work, order: int) -> None:
    simulated_gpu.set_order(order)
    work.enqueue()
    work.done.synchronize()
    assert set(work.target.block) == {7}


def test_lazily_nothing_runs_before_the_wait(work: Work) -> None:
    work.enqueue()
    assert not work.done.query()
    assert not work.up.is_done()
    work.done.synchronize()
    assert work.done.query()


def test_eagerly_it_has_run_but_reading_it_is_still_wrong(simulated_gpu: SimulatedGpu, work: Work) -> None:
    simulated_gpu.set_order(EAGER)
    work.enqueue()
    assert work.target.block[0] == 7
    assert simulated_gpu.violations() == ["the host touched pinned memory that an operation in flight uses"]


@pytest.mark.parametrize("order", [LAZY, EAGER, *SEEDS])
def test_a_race_is_seen_in_every_order(simulated_gpu: SimulatedGpu, work: Work, order: int) -> None:
    simulated_gpu.set_order(order)
    work.enqueue(wait=False)
    (told,) = simulated_gpu.violations()
    assert told.startswith("race: download of 1000 bytes")
    assert "reads what may not be written yet by upload" in told


def test_what_was_never_written_is_not_zero(simulated_gpu: SimulatedGpu, work: Work) -> None:
    work.cuda.pycuda.memcpy_dtoh_async(work.target.block, work.memory, work.down)
    work.down.synchronize()
    assert set(work.target.block) == {0xFF}


def test_the_host_may_not_touch_device_memory(simulated_gpu: SimulatedGpu, work: Work) -> None:
    ctypes.c_ubyte.from_address(int(work.memory)).value = 1
    assert simulated_gpu.violations() == ["the host touched device memory"]


def test_freed_memory_stays_closed(simulated_gpu: SimulatedGpu, cuda: Gpu) -> None:
    block = cuda.upload_memory(SIZE)
    view = block[:1]
    cuda.free_upload_memory(block)
    view[0] = 1
    assert simulated_gpu.violations() == ["the host touched freed memory"]


def test_a_stream_that_waits_for_the_legacy_one(simulated_gpu: SimulatedGpu, cuda: Gpu) -> None:
    cuda.pycuda.Stream()
    assert simulated_gpu.violations() == ["cuStreamCreate of a stream that waits for the legacy one"]


def test_synchronous_copies_do_not_wait_for_streams(simulated_gpu: SimulatedGpu, work: Work) -> None:
    work.cuda.pycuda.memcpy_htod_async(work.memory, work.source, work.up)
    work.cuda.pycuda.memcpy_dtoh(np.empty(SIZE, np.uint8), work.memory)
    (told,) = simulated_gpu.violations()
    assert told.startswith("race: cuMemcpyDtoH")


@pytest.mark.parametrize("order", [LAZY, EAGER, *SEEDS])
def test_a_captured_fork_and_join_runs_as_often_as_it_is_launched(
    simulated_gpu: SimulatedGpu, work: Work, order: int
) -> None:
    simulated_gpu.set_order(order)
    joined = work.cuda.event()

    def fork_and_join() -> None:
        work.enqueue()
        joined.record(work.down)
        work.up.wait_for_event(joined)

    graph = Graph(work.up, fork_and_join)
    for value in range(3):
        work.source[:] = value
        graph.launch(work.up)
        work.up.synchronize()
        assert set(work.target.block) == {value}
    graph.release()


def test_a_race_inside_of_a_graph_is_seen(simulated_gpu: SimulatedGpu, work: Work) -> None:
    other = work.cuda.event()

    def racing() -> None:
        other.record(work.up)
        work.down.wait_for_event(other)  # joins the capture, but too early to wait for the upload
        work.enqueue(wait=False)
        other.record(work.down)
        work.up.wait_for_event(other)

    graph = Graph(work.up, racing)
    assert simulated_gpu.violations() == []
    graph.launch(work.up)
    work.up.synchronize()
    assert "race: download" in simulated_gpu.violations()[0]
    graph.release()


def test_what_a_capture_does_not_allow(work: Work) -> None:
    def attempt(enqueue: Any) -> str:
        with pytest.raises(NotCapturableError) as caught:
            Graph(work.up, enqueue)
        work.up.synchronize()
        return str(caught.value)

    assert "not permitted when stream is capturing" in attempt(work.up.synchronize)
    assert "CUDA_ERROR_STREAM_CAPTURE_UNJOINED" in attempt(work.enqueue)
    work.done.record(work.down)  # outside of it
    assert "905" in attempt(lambda: work.up.wait_for_event(work.done))


def test_another_device_is_another_context(simulated_gpu: SimulatedGpu) -> None:
    simulated_gpu.reset(devices=2)
    one, two = Gpu(0), Gpu(1)
    with one.current():
        stream, event = one.stream(), one.event()
    with two.current():
        event.record(stream)
    assert "cuEventRecord in a context that did not make the stream" in simulated_gpu.violations()
    with one.current():
        stream.synchronize()
        del stream, event
    two.release()
    one.release()
    one.release()
