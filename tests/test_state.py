"""Networks with a state, on every engine: who sees it, and in which order it goes from picture to picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from engines import EngineError, InferenceError
from tests.pixel_models import Array, picture, stateful_model
from tests.test_engines import ENGINES, HEIGHT, SHAPES, SLOTS, WIDTH, feeds
from tests.test_engines import _kind as _kind

if TYPE_CHECKING:
    from engines import Engine

STATE_SHAPES = SHAPES | {"sum": (1, 1, HEIGHT, WIDTH)}


def means(count: int) -> list[Array]:
    """What the model with a state makes of the first pictures."""
    pictures = np.cumsum([picture(seed, HEIGHT, WIDTH).astype(np.float32) for seed in range(count)], axis=0)
    return [np.floor(total / np.float32(number)).astype(np.uint8) for number, total in enumerate(pictures, 1)]


def stateful(kind: str, model: bytes = b"") -> Engine:
    return ENGINES[kind](model or stateful_model(), STATE_SHAPES, slots=SLOTS, threads=2)


def test_a_state_goes_from_inference_to_inference_in_the_order_of_submit(kind: str) -> None:
    wanted = means(12)
    with stateful(kind) as engine:
        flying = [engine.submit(feeds(seed)) for seed in range(SLOTS)]
        for seed, mean in enumerate(wanted):
            result = engine.collect(flying.pop(0))
            assert result.keys() == {"enhanced"}
            assert np.array_equal(result["enhanced"], mean), seed
            flying.append(engine.submit(feeds(seed + SLOTS)))


def test_a_state_is_hidden_and_begins_as_zero_at_every_opening(kind: str) -> None:
    engine = stateful(kind)
    for _ in range(2):
        with engine:
            assert [spec.name for spec in engine.inputs] == ["luma", "strength"]
            assert [spec.name for spec in engine.outputs] == ["enhanced"]
            assert [(spec.name, spec.shape) for spec in engine.state] == [
                ("sum", (1, 1, HEIGHT, WIDTH)),
                ("count", (1,)),
            ]
            for seed, mean in enumerate(means(3)):
                assert np.array_equal(engine.collect(engine.submit(feeds(seed)))["enhanced"], mean)
        assert engine.state == ()


def test_slots_that_come_back_in_another_order_share_the_state(kind: str) -> None:
    wanted = means(2 * SLOTS)
    with stateful(kind) as engine:
        for begin in (0, SLOTS):
            tickets = [engine.submit(feeds(seed)) for seed in range(begin, begin + SLOTS)]
            for seed in (begin + 1, begin + 2, begin):
                assert np.array_equal(engine.collect(tickets[seed - begin])["enhanced"], wanted[seed])


def test_an_inference_that_is_refused_leaves_the_state(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = means(2)

    def refuse(slot: int) -> None:
        raise RuntimeError("it was refused")

    with stateful(kind) as engine:
        assert np.array_equal(engine.collect(engine.submit(feeds(0)))["enhanced"], wanted[0])
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_submit", refuse)
            with pytest.raises(InferenceError, match="it was refused"):
                engine.submit(feeds(7))
        assert np.array_equal(engine.collect(engine.submit(feeds(1)))["enhanced"], wanted[1])


def test_a_state_that_changes_its_type_is_refused(kind: str) -> None:
    proto = onnx.load_model_from_string(stateful_model())
    next(node for node in proto.graph.node if "count_next" in node.output).output[0] = "counted"
    for node in proto.graph.node:
        node.input[:] = ["counted" if name == "count_next" else name for name in node.input]
    codes = onnx.TensorProto.UINT8
    proto.graph.node.append(onnx.helper.make_node("Cast", ["counted"], ["count_next"], to=codes))
    (count,) = (value for value in proto.graph.output if value.name == "count_next")
    count.type.tensor_type.elem_type = codes
    engine = stateful(kind, proto.SerializeToString())
    with pytest.raises(EngineError, match=r"cannot carry a state from count_next uint8\[1\] to count float32\[1\]"):
        engine.open()
