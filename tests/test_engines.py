"""One contract for every engine: a new engine joins by an entry in ENGINES."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import (
    Engine,
    EngineError,
    OnnxRuntimeCudaEngine,
    OnnxRuntimeEngine,
    OnnxRuntimeTensorRTEngine,
    OpenVINOEngine,
    TensorRTEngine,
    TensorSpec,
    available_engines,
    for_bits,
)
from tests.pixel_models import (
    Array,
    assert_close,
    expected,
    picture,
    tiny_model,
    tiny_proto,
    with_listed_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class OnnxRuntimeWithoutCuda(OnnxRuntimeCudaEngine):
    """All of the engine but CUDA itself, in whose place the CPU computes."""

    provider = "CPUExecutionProvider"

    def _provider_options(self) -> dict[str, str]:
        return {}


class OnnxRuntimeWithoutTensorRT(OnnxRuntimeTensorRTEngine):
    """The same with TensorRT's provider."""

    provider = "CPUExecutionProvider"

    def _asked(self) -> list[str]:
        return [self.provider]


ENGINES: dict[str, type[OpenVINOEngine] | type[OnnxRuntimeEngine] | type[TensorRTEngine]] = {
    "openvino": OpenVINOEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "onnxruntime-cuda": OnnxRuntimeWithoutCuda,
    "onnxruntime-tensorrt": OnnxRuntimeWithoutTensorRT,
    "tensorrt": TensorRTEngine,
}
ON_GPU = {"tensorrt"}
"""These run on the simulated GPU, see tests/gpu."""
STANDS_IN = {"onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime"}
HEIGHT, WIDTH = 18, 26
LIMIT_S = 20
SLOTS = 3
DEFAULT_SLOTS = dict.fromkeys(ENGINES, 2) | {"tensorrt": 3}
SHAPES = {"luma": (1, 1, HEIGHT, WIDTH)}
ONE = np.ones(1, np.float32)

pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.fixture(name="no_thread_left")
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture(name="kind", params=ENGINES)
def _kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name in ON_GPU:
        request.getfixturevalue("simulated_gpu")
    row = next(row for row in available_engines() if row.name == STANDS_IN.get(name, name))
    if not row.usable:
        pytest.skip(row.reason)
    return name


@pytest.fixture(name="engine")
def _engine(kind: str) -> Iterator[Engine]:
    with make(kind) as engine:
        yield engine


def make(kind: str, slots: int = SLOTS, model: bytes | None = None) -> Engine:
    return ENGINES[kind](model or tiny_model(), SHAPES, slots=slots, threads=2)


def feeds(seed: int, strength: float = 1.0) -> dict[str, Array]:
    luma = picture(seed, HEIGHT, WIDTH)
    return {"luma": luma, "strength": np.array([strength], np.float32)}


def wanted(seed: int, strength: float = 1.0) -> Array:
    return expected(picture(seed, HEIGHT, WIDTH), strength)


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int]:
    """Address and flags of this thread's alternate signal stack."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.flags


def on_another_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


# --- results


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_result_equals_the_reference(engine: Engine, strength: float) -> None:
    ticket = engine.submit(feeds(1, strength))
    assert_close(engine.collect(ticket)["enhanced"], wanted(1, strength))


def test_specs_say_what_goes_in_and_out(engine: Engine) -> None:
    assert engine.inputs == (
        TensorSpec("luma", (1, 1, HEIGHT, WIDTH), np.dtype(np.uint8)),
        TensorSpec("strength", (1,), np.dtype(np.float32)),
    )
    outputs = (TensorSpec("enhanced", (1, 1, 2 * HEIGHT, 2 * WIDTH), np.dtype(np.uint8)),)
    assert engine.outputs == outputs
    assert engine.slots == SLOTS


def test_several_in_flight_come_back_in_order(engine: Engine) -> None:
    tickets = [engine.submit(feeds(seed)) for seed in range(engine.slots)]
    for seed in range(engine.slots, 20):
        oldest = tickets.pop(0)
        assert_close(engine.collect(oldest)["enhanced"], wanted(seed - engine.slots))
        tickets.append(engine.submit(feeds(seed)))
    for seed, ticket in zip(range(20 - engine.slots, 20), tickets, strict=True):
        assert_close(engine.collect(ticket)["enhanced"], wanted(seed))


def test_tickets_may_be_collected_in_any_order(engine: Engine) -> None:
    dice = random.Random(3)
    flying = [(seed, engine.submit(feeds(seed))) for seed in range(engine.slots)]
    for seed in range(engine.slots, 40):
        known, ticket = flying.pop(dice.randrange(len(flying)))
        assert_close(engine.collect(ticket)["enhanced"], wanted(known))
        flying.append((seed, engine.submit(feeds(seed))))


def test_strength_belongs_to_its_own_frame(engine: Engine) -> None:
    tickets = [engine.submit(feeds(5, strength)) for strength in (0.0, 1.0, 0.5)]
    for strength, ticket in zip((0.0, 1.0, 0.5), tickets, strict=True):
        assert_close(engine.collect(ticket)["enhanced"], wanted(5, strength))


@pytest.mark.parametrize("bits", [8, 10])
def test_levels_of_a_conditioned_model_belong_to_their_own_frame(kind: str, bits: int) -> None:
    luma = picture(6, HEIGHT, WIDTH, bits)
    told = ((0.0, 0.0), (1.0, 0.2), (0.5, 0.9))
    with make(kind, model=for_bits(tiny_model(conditioned=True), bits)) as engine:
        for name in ("level", "noise"):
            assert TensorSpec(name, (1,), np.dtype(np.float32)) in engine.inputs
        fed = [
            {
                "luma": luma,
                "strength": ONE,
                "level": np.full(1, level, np.float32),
                "noise": np.full(1, noise, np.float32),
            }
            for level, noise in told
        ]
        for levels, ticket in zip(told, [engine.submit(one) for one in fed], strict=True):
            assert_close(engine.collect(ticket)["enhanced"], expected(luma, 1.0, bits, *levels))
        with pytest.raises(EngineError, match=r"takes .*level.*noise"):
            engine.submit({"luma": luma, "strength": ONE})


def test_input_arrays_may_be_reused_at_once(engine: Engine) -> None:
    shared = feeds(0)
    tickets = []
    for seed in range(engine.slots):
        shared["luma"][:] = picture(seed, HEIGHT, WIDTH)
        tickets.append(engine.submit(shared))
    shared["luma"][:] = 0
    for seed, ticket in enumerate(tickets):
        assert_close(engine.collect(ticket)["enhanced"], wanted(seed))


def test_strided_and_read_only_input(engine: Engine) -> None:
    padded = np.full((HEIGHT, WIDTH + 6), 99, np.uint8)
    padded[:, :WIDTH] = picture(2, HEIGHT, WIDTH)[0, 0]
    padded.flags.writeable = False
    view = padded[None, None, :, :WIDTH]
    assert not view.flags.c_contiguous
    ticket = engine.submit({"luma": view, "strength": ONE})
    assert_close(engine.collect(ticket)["enhanced"], wanted(2))


def test_outputs_are_read_only_views_of_memory_that_is_reused(kind: str) -> None:
    with make(kind, slots=1) as engine:
        first = engine.collect(engine.submit(feeds(0)))["enhanced"]
        second = engine.collect(engine.submit(feeds(1)))["enhanced"]
        assert np.shares_memory(first, second)
        assert not first.flags.writeable
        assert_close(first, wanted(1))


@pytest.mark.parametrize("bits", [10, 16])
def test_deeper_pixels_are_computed_in_full_float32(kind: str, bits: int) -> None:
    luma = picture(4, HEIGHT, WIDTH, bits)
    with make(kind, model=for_bits(tiny_model(), bits)) as engine:
        assert [spec.dtype for spec in engine.outputs] == [np.dtype(np.float32)]
        for array in (luma, luma.astype(np.float32)):
            out = engine.collect(engine.submit({"luma": array, "strength": ONE}))["enhanced"]
            assert_close(out, expected(luma, 1.0, bits))
            assert np.array_equal(out, np.rint(out))


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_may_be_listed_among_the_inputs(kind: str, ir_version: int) -> None:
    with make(kind, model=with_listed_weights(tiny_proto(), ir_version).SerializeToString()) as engine:
        assert [spec.name for spec in engine.inputs] == ["luma", "strength"]
        assert_close(engine.collect(engine.submit(feeds(5)))["enhanced"], wanted(5))


def test_engines_agree_with_each_other() -> None:
    rows = [row.name for row in available_engines() if row.usable]
    outputs = []
    for name in rows:
        with make(name) as engine:
            outputs.append(engine.collect(engine.submit(feeds(6)))["enhanced"].astype(int))
    for other in outputs[1:]:
        assert np.abs(outputs[0] - other).max() <= 1


def test_two_engines_side_by_side(kind: str) -> None:
    with make(kind) as one, make(kind) as two:
        tickets = one.submit(feeds(1)), two.submit(feeds(2))
        assert_close(two.collect(tickets[1])["enhanced"], wanted(2))
        assert_close(one.collect(tickets[0])["enhanced"], wanted(1))
        with pytest.raises(EngineError, match="not from this opening of this engine"):
            two.collect(one.submit(feeds(3)))


# --- misuse


BAD_FEEDS: list[tuple[dict[str, Array], str]] = [
    ({}, r"got inputs \[\]"),
    ({"luma": picture(0, HEIGHT, WIDTH)}, "takes .*strength"),
    ({**feeds(0), "mask": ONE}, "got inputs .*mask"),
    ({**feeds(0), "luma": picture(0, WIDTH, HEIGHT)}, r"opened as uint8\[1, 1, 18, 26\]"),
    ({**feeds(0), "luma": picture(0, HEIGHT, WIDTH)[0, 0]}, r"luma is uint8\[18, 26\]"),
    ({**feeds(0), "luma": picture(0, HEIGHT, WIDTH).astype(np.float32)}, r"luma is float32"),
    ({**feeds(0), "luma": picture(0, HEIGHT, WIDTH, 10)}, r"luma is uint16"),
    ({**feeds(0), "strength": np.ones(1)}, "strength is float64"),
]


@pytest.mark.parametrize(("bad", "told"), BAD_FEEDS)
def test_feeds_that_do_not_fit_are_refused(engine: Engine, bad: dict[str, Array], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        engine.submit(bad)
    tickets = [engine.submit(feeds(seed)) for seed in range(engine.slots)]
    assert_close(engine.collect(tickets[0])["enhanced"], wanted(0))


def test_no_free_slot_tells_to_collect(engine: Engine) -> None:
    tickets = [engine.submit(feeds(seed)) for seed in range(engine.slots)]
    with pytest.raises(EngineError, match="all 3 slots are in flight; collect"):
        engine.submit(feeds(9))
    for seed, ticket in enumerate(tickets):
        assert_close(engine.collect(ticket)["enhanced"], wanted(seed))


def test_a_ticket_is_good_once(engine: Engine) -> None:
    ticket = engine.submit(feeds(0))
    engine.collect(ticket)
    with pytest.raises(EngineError, match="collected before"):
        engine.collect(ticket)


def test_a_closed_engine_is_not_usable(kind: str) -> None:
    engine = make(kind)
    with pytest.raises(EngineError, match="open it first"):
        engine.submit(feeds(0))
    with engine:
        ticket = engine.submit(feeds(0))
    assert not engine.is_open
    with pytest.raises(EngineError, match="open it first"):
        engine.submit(feeds(0))
    with pytest.raises(EngineError, match="open it first"):
        engine.collect(ticket)


def test_opening_twice_is_an_error(engine: Engine) -> None:
    with pytest.raises(EngineError, match="already open"):
        engine.open()
    assert_close(engine.collect(engine.submit(feeds(0)))["enhanced"], wanted(0))


def test_closing_twice_or_never_opened_is_harmless(kind: str) -> None:
    engine = make(kind)
    on_another_thread(engine.close)
    engine.open()
    engine.close()
    engine.close()


def test_another_thread_is_refused(engine: Engine) -> None:
    ticket = engine.submit(feeds(0))
    calls: list[Callable[[], object]] = [
        lambda: engine.submit(feeds(1)),
        lambda: engine.collect(ticket),
        engine.close,
    ]
    for call in calls:
        with pytest.raises(EngineError, match="on one thread"):
            on_another_thread(call)
    assert_close(engine.collect(ticket)["enhanced"], wanted(0))


def test_an_engine_may_live_on_any_one_thread(kind: str) -> None:
    def run() -> Array:
        with make(kind) as engine:
            return engine.collect(engine.submit(feeds(3)))["enhanced"]

    found = on_another_thread(run)
    assert isinstance(found, np.ndarray)
    assert_close(found, wanted(3))


@pytest.mark.parametrize("settings", [{"slots": 0}, {"threads": 0}])
def test_settings_below_one_are_refused(kind: str, settings: dict[str, int]) -> None:
    with pytest.raises(EngineError, match="use 1 or more"):
        ENGINES[kind](tiny_model(), SHAPES, slots=settings.get("slots"), threads=settings.get("threads"))


# --- life


def test_closing_with_work_in_flight_and_reopening(kind: str) -> None:
    engine = make(kind)
    for turn in range(3):
        with engine:
            stale = [engine.submit(feeds(seed)) for seed in range(engine.slots)]
        engine.open()
        with pytest.raises(EngineError, match="not from this opening"):
            engine.collect(stale[0])
        tickets = [engine.submit(feeds(turn + seed)) for seed in range(engine.slots)]
        for seed, ticket in enumerate(tickets):
            assert_close(engine.collect(ticket)["enhanced"], wanted(turn + seed))
        engine.close()


def test_closing_leaves_nothing_behind(kind: str) -> None:
    engine = make(kind)
    before = {key: copy(value) for key, value in vars(engine).items()}
    with engine:
        engine.collect(engine.submit(feeds(0)))
    after = dict(vars(engine))
    assert after.pop("_submitted") == 1
    assert {key: before[key] for key in after} == after


def test_one_slot_and_one_thread_suffice(kind: str) -> None:
    with ENGINES[kind](tiny_model(), SHAPES, slots=1, threads=1) as engine:
        assert_close(engine.collect(engine.submit(feeds(0)))["enhanced"], wanted(0))


def test_more_slots_than_threads(kind: str) -> None:
    with ENGINES[kind](tiny_model(), SHAPES, slots=5, threads=2) as engine:
        tickets = [engine.submit(feeds(seed)) for seed in range(5)]
        for seed, ticket in reversed(list(enumerate(tickets))):
            assert_close(engine.collect(ticket)["enhanced"], wanted(seed))


def test_defaults_keep_several_in_flight(kind: str) -> None:
    with ENGINES[kind](tiny_model(), SHAPES) as engine:
        assert engine.slots == DEFAULT_SLOTS[kind]


# --- failure


def fragile_model() -> bytes:
    """Multiplies four numbers by `count` + 1 copies of them, which fails for two or more."""
    nodes = [
        helper.make_node("Cast", ["count"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "one"], ["copies"]),
        helper.make_node("Tile", ["numbers", "copies"], ["tiled"]),
        helper.make_node("Mul", ["tiled", "numbers"], ["products"]),
        helper.make_node("ReduceSum", ["products"], ["total"], keepdims=0),
    ]
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    inputs = [
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("count", TensorProto.FLOAT, [1]),
    ]
    outputs = [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "fragile", inputs, outputs, [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    content: bytes = model.SerializeToString()
    return content


def test_a_failed_inference_is_told_and_frees_its_slot(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    if kind in ON_GPU:
        pytest.skip("TensorRT builds no shapes that depend on data; tests/gpu has the ways in which it fails")
    numbers = np.arange(4, dtype=np.float32)
    good = {"numbers": numbers, "count": np.array([0], np.float32)}
    bad = {"numbers": numbers, "count": np.array([2], np.float32)}
    with ENGINES[kind](fragile_model(), {"numbers": (4,)}, slots=2, threads=2) as engine:
        for _ in range(3):
            broken, whole = engine.submit(bad), engine.submit(good)
            with pytest.raises(EngineError, match=f"{kind} engine failed while running") as caught:
                engine.collect(broken)
            assert "\n" not in str(caught.value)
            assert engine.collect(whole)["total"] == np.square(numbers).sum()
        engine.submit(bad)
    assert capfd.readouterr() == ("", "")


def unsupported_model() -> bytes:
    domain = "nobody.knows"
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["y"], domain=domain)],
        "unsupported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    content: bytes = model.SerializeToString()
    return content


def test_an_unsupported_operator_is_named(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    engine = ENGINES[kind](unsupported_model(), {})
    for _ in range(2):
        with pytest.raises(EngineError, match=r"cannot open the given model.*Mystery") as caught:
            engine.open()
        assert not engine.is_open
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({}, r"luma has the shape \[1, 1, height, width\]"),
        ({"luma": (1, 1, 0, 8)}, r"cannot become \[1, 1, 0, 8\]"),
        ({"luma": (1, 3, 8, 8)}, r"cannot become \[1, 3, 8, 8\]"),
        ({"luma": (8, 8)}, "cannot become"),
        ({**SHAPES, "mask": (1,)}, "no input mask"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(kind: str, shapes: dict[str, tuple[int, ...]], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        ENGINES[kind](tiny_model(), shapes).open()


@pytest.mark.parametrize("content", [b"", b"no model", tiny_model()[:400]])
def test_a_bad_model_is_refused(kind: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot use bad\.onnx") as caught:
        ENGINES[kind](path, SHAPES).open()
    assert "site-packages" not in "".join(traceback.format_exception(caught.value))
    assert capfd.readouterr() == ("", "")


# --- telling when it is done


def test_it_tells_when_an_inference_is_done(kind: str) -> None:
    told = threading.Semaphore(0)
    engine = make(kind)
    engine.on_done = lambda: told.release()
    with engine:
        if not engine.tells:
            ticket = engine.submit(feeds(1))
            assert not engine.ready(ticket)
            engine.collect(ticket)
            return
        for seed in range(5):
            tickets = [engine.submit(feeds(seed)), engine.submit(feeds(seed + 1))]
            while not all(engine.ready(ticket) for ticket in tickets):
                assert told.acquire(timeout=LIMIT_S)
            assert_close(engine.collect(tickets[0])["enhanced"], wanted(seed))
            assert engine.latency_ns > 0
            engine.collect(tickets[1])
            with pytest.raises(EngineError, match="collected before"):
                engine.ready(tickets[0])


def test_nobody_is_told_who_doesnt_ask(engine: Engine) -> None:
    ticket = engine.submit(feeds(1))
    assert_close(engine.collect(ticket)["enhanced"], wanted(1))
    assert engine.latency_ns > 0


def test_another_thread_may_adopt_what_can_move(engine: Engine) -> None:
    def use() -> None:
        engine.adopt()
        assert_close(engine.collect(engine.submit(feeds(3)))["enhanced"], wanted(3))

    if not engine.can_move:
        with pytest.raises(EngineError, match="stays on the thread"):
            engine.adopt()
        return
    on_another_thread(use)
    with pytest.raises(EngineError, match="from thread"):
        engine.submit(feeds(1))
    engine.adopt()
    engine.close()
    with pytest.raises(EngineError, match="open it first"):
        engine.adopt()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into a structure of Linux")
def test_the_callers_signal_stack_is_left_alone(kind: str) -> None:
    """One that an engine takes away with itself crashes the program at the next signal."""

    def opened() -> tuple[int | None, int]:
        with make(kind) as engine:
            engine.collect(engine.submit(feeds(1)))
            return signal_stack()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(signal_stack).result() == thread.submit(opened).result()
