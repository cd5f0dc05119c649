"""What the base class of engines does by itself, shown with an engine that does as it is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines import Engine, EngineError, SlotBuffers, TensorSpec
from engines.base import is_out_of_memory

ONE = np.ones(1, np.float32)


class Scripted(Engine):
    """An engine without a vendor, whose steps raise what the test puts in."""

    name = "scripted"

    def __init__(self) -> None:
        super().__init__(2)
        self.on_submit: BaseException | None = None
        self.on_collect: BaseException | None = None
        self.on_open: BaseException | None = None
        self.calls: list[str] = []

    def _open(self) -> list[SlotBuffers]:
        self._step("open", self.on_open)
        spec = (TensorSpec("x", (1,), np.dtype(np.float32)),)
        return [SlotBuffers.allocate(spec, spec) for _ in range(self.slots)]

    def _submit(self, slot: int) -> None:
        self._step(f"submit {slot}", self.on_submit)

    def _collect(self, slot: int) -> None:
        self._step(f"collect {slot}", self.on_collect)

    def _close(self) -> None:
        self._step("close", None)

    def _step(self, call: str, error: BaseException | None) -> None:
        self.calls.append(call)
        if error is not None:
            raise error


def test_opening_tries_every_slot_once() -> None:
    engine = Scripted()
    engine.open()
    assert engine.calls == ["open", "submit 0", "collect 0", "submit 1", "collect 1"]
    engine.close()


@pytest.mark.parametrize("error", [ValueError("broke"), EngineError("told"), KeyboardInterrupt()])
def test_a_failed_opening_is_undone(error: BaseException) -> None:
    engine = Scripted()
    engine.on_collect = error
    kind = EngineError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(kind):
        engine.open()
    assert engine.calls[-1] == "close"
    assert (engine.is_open, engine.inputs, engine.outputs) == (False, (), ())


def test_a_failed_submit_frees_its_slot() -> None:
    with Scripted() as engine:
        engine.on_submit = RuntimeError("device lost")
        for _ in range(3):
            with pytest.raises(EngineError, match="device lost; the next frame may be tried"):
                engine.submit({"x": ONE})
        engine.on_submit = None
        engine.collect(engine.submit({"x": ONE}))


def test_an_interrupted_wait_keeps_the_ticket_and_close_waits_again() -> None:
    engine = Scripted()
    engine.open()
    ticket = engine.submit({"x": ONE})
    engine.on_collect = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.collect(ticket)
    engine.on_collect = ValueError("nobody asks any more")
    engine.close()
    assert engine.calls[-2:] == ["collect 0", "close"]


def test_vendor_words_become_one_line() -> None:
    engine = Scripted()
    engine.on_open = RuntimeError("Exception from src/core.cpp:1:\nCheck 'x > 0' failed at a.cpp:2:\nToo small.\n\n")
    with pytest.raises(EngineError, match="cannot open its network: Too small; try another"):
        engine.open()


class Carrying(Scripted):
    """The same, with a state."""

    def _open(self) -> list[SlotBuffers]:
        spec = TensorSpec("x", (1,), np.dtype(np.float32))
        inputs, outputs = (replace(spec, name="s"), spec), (replace(spec, name="s_next"), replace(spec, name="y"))
        return [SlotBuffers.allocate(inputs, outputs) for _ in range(self.slots)]


@pytest.mark.parametrize("teller", ["collect", "the next submit"])
def test_a_failed_inference_does_not_fail_those_behind_it(teller: str) -> None:
    with Carrying() as engine:
        ticket = engine.submit({"x": ONE})
        engine.on_collect = RuntimeError("once")
        with pytest.raises(EngineError, match="once"):
            engine.collect(ticket) if teller == "collect" else engine.submit({"x": ONE})
        engine.on_collect = None
        engine.calls.clear()
        engine.collect(engine.submit({"x": ONE}))
        assert engine.calls == ["submit 1", "collect 1"], "nobody waits for the failed one again"


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [
        ("Failed to allocate 7608729600 bytes of memory", True),
        ("[ GENERAL_ERROR ] Failed to allocate memory", True),
        ("CUDA_ERROR_OUT_OF_MEMORY", True),
        ("Failed to allocate a name", False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(text: str, is_memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) == is_memory
