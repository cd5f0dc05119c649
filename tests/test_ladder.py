"""The ladder in the enhance stage: which network a frame gets, that none is lost or repeated, and what is opened."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import engines
from onnx_models.cards import load_card
from onnx_models.level import level_of_stream
from streamer.enhancer import EnhanceStage
from streamer.frame import Frame, VideoFormat
from streamer.governor import Change, Governor
from streamer.ladder import LATE_INTERVALS, STEPS_DOWN, STEPS_UP, Ladder, interval_ns, lighter_cards
from streamer.network import Network
from tests import faulty
from tests.clips import make_frame

WIDTH, HEIGHT = 48, 32
LIMIT_S = 20
SMALL, NANO, HALF, NONE = range(4)
ENGINES = [row.name for row in engines.available_engines() if row.usable]


class Script(Governor):
    """Decides by the number of the frame that has left, whatever it is told."""

    plan: Mapping[int, int]

    def decide(self, now_ns: int) -> Change | None:
        self.left = getattr(self, "left", 0) + 1
        after = self.plan.get(self.left)
        if after is None:
            return None
        change = Change(self.level, after, "the script says so")
        self.level = after
        return change


def numbered(number: int) -> Frame:
    frame = make_frame(width=WIDTH, height=HEIGHT)
    luma = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    return replace(frame, planes=(luma, *frame.planes[1:]), index=number, pts=number)


def governed(engine: str = "auto", model: str = "upscale-x2-small", max_tile_px: int = 1 << 20) -> EnhanceStage:
    return EnhanceStage(load_card(model), engine=engine, level=0.3, noise=0.1, governed=True, max_tile_px=max_tile_px)


def begun(stage: EnhanceStage, plan: Mapping[int, int]) -> EnhanceStage:
    """Opened, with its lighter networks, and the script in the governor's place."""
    stage.open(numbered(0).format)
    ladder = stage.ladder
    assert ladder is not None
    assert ladder._opener is not None
    ladder._opener.join()
    ladder._begin()
    assert ladder.governor is not None
    script = Script(ladder.governor.levels, ladder.governor.budget_ns)
    script.plan = plan
    ladder.governor = script
    return stage


def finished(stage: EnhanceStage, count: int, told: threading.Semaphore | None = None) -> list[Frame]:
    """All results. With `told`, which is released when something is done, two frames at most are under way."""
    results: list[Frame] = []
    try:
        for number in range(count):
            results += stage.process(numbered(number))
            while told is not None and len(results) < number - 1:
                assert told.acquire(timeout=LIMIT_S)
                results += stage.ready()
        return results + list(stage.flush())
    finally:
        stage.close()


@pytest.fixture(scope="module")
def references() -> dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    """What the networks make of every frame, and the interpolation."""
    made = {}
    for name, strength in (("small", 1.0), ("nano", 1.0), ("none", 0.0)):
        model = "upscale-x2-nano" if name == "none" else f"upscale-x2-{name}"
        stage = EnhanceStage(load_card(model), level=0.3, noise=0.1, strength=strength)
        stage.open(numbered(0).format)
        made[name] = [frame.planes[0] for frame in finished(stage, 40)]
    return made


def way_of(frame: Frame, references: Mapping[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]) -> str:
    """Which reference this frame is."""
    errors = {
        name: float(np.abs(frame.planes[0].astype(int) - planes[frame.index]).mean())
        for name, planes in references.items()
    }
    best = min(errors, key=lambda name: errors[name])
    assert errors[best] < 1.0, errors
    assert sorted(errors.values())[1] > 2 * errors[best]
    return best


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("max_tile_px", [1 << 20, 900])
@pytest.mark.parametrize("engine", ENGINES)
def test_no_frame_is_lost_or_repeated_when_levels_change(
    engine: str,
    max_tile_px: int,
    prompt: bool,
    references: Mapping[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = governed(engine, max_tile_px=max_tile_px)
    told = threading.Semaphore(0) if prompt else None
    if told is not None:
        stage.wake = lambda: told.release()
    begun(stage, {5: NANO, 10: HALF, 18: NONE, 24: NANO, 28: SMALL})
    results = finished(stage, 40, told)
    assert [frame.index for frame in results] == list(range(40))
    assert not any(plane.flags.writeable for frame in results for plane in frame.planes)
    ways = [way_of(frame, references) for frame in results]
    assert ways[:5] == ["small"] * 5
    assert ways[35:] == ["small"] * 5
    assert set(ways[9:10]) == {"nano"}
    assert ways[15:18] in (["nano", "none", "nano"], ["none", "nano", "none"])
    assert ways[23] == "none"
    assert stage.counts == {STEPS_DOWN: 3, STEPS_UP: 2}
    assert "upscale-x2-nano instead of upscale-x2-small: the script says so" in caplog.text
    assert stage.ladder is not None
    assert sum(stage.ladder.frames.values()) == 40
    assert set(stage.ladder.frames) == {
        "upscale-x2-small", "upscale-x2-nano", "upscale-x2-nano on every 2nd frame", "interpolation",
    }  # fmt: skip


def test_an_interpolated_frame_doesnt_wait_for_the_probe() -> None:
    """Four times a second the network is tried in both slots, to see how long a frame would take."""
    stage = governed()
    told = threading.Semaphore(0)
    stage.wake = lambda: told.release()
    begun(stage, {1: NONE})
    ladder = stage.ladder
    assert ladder is not None
    assert isinstance(ladder.governor, Governor)
    now_ns = 10**9
    ladder._clock = lambda: now_ns
    list(stage.process(numbered(0)))
    list(stage.flush())
    units: list[float] = []

    def inference(now_ns: int, service_ns: float, cost: float) -> None:
        units.append(service_ns / cost)

    ladder.governor.inference = inference  # type: ignore[method-assign]
    for number in range(1, 11):
        (out,) = stage.process(numbered(number))
        assert out.index == number
        now_ns += 10**8
        while not all(probe.is_done for probe in stage._probes):
            assert told.acquire(timeout=LIMIT_S)
    list(stage.flush())
    stage.close()
    assert len(units) == 4 * 2
    assert all(unit > 0 for unit in units)


def overheard(monkeypatch: pytest.MonkeyPatch) -> tuple[EnhanceStage, list[tuple[int, bool]]]:
    """A governed stage, and what its governor is told: of each frame, how many were lost before, and if it is late."""
    stage = begun(governed(model="upscale-x2-nano"), {})
    assert stage.ladder is not None
    heard: list[tuple[int, bool]] = []

    def frame(now_ns: int, missed: int = 0, *, late: bool = False) -> None:
        heard.append((missed, late))

    monkeypatch.setattr(stage.ladder.governor, "frame", frame)
    return stage, heard


def test_the_governor_hears_of_lost_and_late_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, heard = overheard(monkeypatch)
    ladder = stage.ladder
    assert ladder is not None
    budget_ns = interval_ns(numbered(0).format)
    ladder._clock = lambda: 10 * budget_ns
    for index, age in ((0, 1), (1, LATE_INTERVALS), (4, 1), (5, 1)):
        list(stage.process(replace(numbered(index), captured_ns=(10 - age) * budget_ns)))
        list(stage.flush())
    stage.close()
    assert heard == [(0, False), (0, True), (2, False), (0, False)]


@pytest.mark.parametrize(("work", "is_blamed"), [(0.1, False), (1.5, True)])
def test_what_a_slow_output_causes_is_not_the_networks_fault(
    work: float, is_blamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame waits for the output, which takes two intervals; without the network's work it would take less."""
    stage, heard = overheard(monkeypatch)
    ladder = stage.ladder
    assert ladder is not None
    assert ladder.governor is not None
    budget_ns = interval_ns(numbered(0).format)
    monkeypatch.setattr(ladder.governor, "expected_ns", lambda level: work * budget_ns)
    now_ns = 0
    ladder._clock = lambda: now_ns
    for number in range(20):
        captured = replace(numbered(2 * number), captured_ns=now_ns - 4 * budget_ns)
        ladder.choose(captured)
        now_ns += budget_ns // 10
        ladder.left(captured)
        now_ns += 19 * budget_ns // 10
        stage.held(19 * budget_ns // 10)
    stage.close()
    assert heard[10:] == [(1, True) if is_blamed else (0, False)] * 10


def test_a_new_scene_is_a_new_scene_on_frames_without_a_network() -> None:
    stage = EnhanceStage(load_card("upscale-x2-nano"), noise=0.0, governed=True)
    begun(stage, {1: 2, 3: 0})
    told: list[float] = []
    for index, (qp, cut) in enumerate(((42, False), (42, False), (12, True), (12, False), (12, False), (12, False))):
        list(stage.process(replace(numbered(index), qp=float(qp), discontinuity=cut)))
        list(stage.flush())
        assert stage.levels is not None
        told.append(stage.levels.level)
    stage.close()
    assert stage.ladder is not None
    assert stage.ladder.frames["interpolation"] >= 2, "the cut is one of them"
    assert told[0] == 1
    assert told[-1] == pytest.approx(level_of_stream(12))


def test_what_is_lighter() -> None:
    assert [card.name for card in lighter_cards(load_card("upscale-x2-medium"))] == [
        "upscale-x2-small",
        "upscale-x2-nano",
    ]
    assert [card.name for card in lighter_cards(load_card("upscale-x2-medium-clean"))] == [
        "upscale-x2-small-clean",
        "upscale-x2-nano-clean",
    ]
    assert lighter_cards(load_card("upscale-x2-nano")) == []
    vivid = replace(load_card("upscale-x2-small"), name="upscale-x2-small-vivid")
    assert [card.name for card in lighter_cards(vivid)] == ["upscale-x2-nano"]


def test_the_budget_is_what_the_stream_really_does() -> None:
    """It says 25 frames/s and sends 12.5; lost frames and gaps don't count as long intervals."""
    stage = begun(governed(model="upscale-x2-nano"), {})
    ladder = stage.ladder
    assert ladder is not None
    assert ladder.governor is not None
    assert ladder.governor.budget_ns == 40_000_000
    now_ns = 0
    ladder._clock = lambda: now_ns
    second = 1 / numbered(0).time_base
    for index in [*range(100), *range(105, 200), *range(210, 300)]:
        pts = round(index * second * Fraction(8, 100)) + (10**6 if index >= 250 else 0)
        now_ns = index * 80_000_000
        ladder.choose(replace(numbered(0), index=index, pts=pts, discontinuity=index == 250))
    stage.close()
    assert ladder.governor.budget_ns == pytest.approx(80_000_000, rel=0.05)


def test_the_rate_that_is_promised() -> None:
    format = VideoFormat(64, 48, "yuv420p", rate=Fraction(30000, 1001))
    assert interval_ns(format) == 33_366_666
    assert interval_ns(format, Fraction(10)) == 100_000_000
    assert interval_ns(replace(format, rate=None)) == 40_000_000


def test_a_network_that_doesnt_open_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = engines.open_engine
    nano = load_card("upscale-x2-nano").path

    def failing(request: engines.EngineRequest, **settings: Any) -> engines.Engine:
        if request.model == nano:
            raise engines.EngineError("no memory")
        return opened(request, **settings)

    monkeypatch.setattr(engines, "open_engine", failing)
    stage = begun(governed(), {})
    assert stage.ladder is not None
    assert stage.ladder.governor is not None
    assert [level.name for level in stage.ladder.governor.levels] == [
        "upscale-x2-small",
        "upscale-x2-small on every 2nd frame",
        "interpolation",
    ]
    assert len(finished(stage, 3)) == 3
    assert "the governor goes without upscale-x2-nano: no memory" in caplog.text


def test_another_engine_gets_another_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lighter networks run where the chosen one does: when its engine is replaced, theirs are, too."""

    def damage(number: int, precision: str, output: engines.Array) -> None:
        output[:] = 0

    faulty.install(monkeypatch, damage)
    stage = begun(governed(faulty.NAME), {1: NANO, 2: SMALL})
    ladder = stage.ladder
    assert ladder is not None
    assert [rung.network.engine.name for rung in ladder._rungs] == [faulty.NAME] * 4
    frames = 40
    results = finished(stage, frames)
    assert [frame.index for frame in results] == list(range(frames))
    assert stage.engine_name != faulty.NAME
    assert stage.counts["engines replaced"] == 3
    assert {network.runner.name for network in _networks(ladder)} == {stage.engine_name}


@pytest.mark.parametrize("number", [4, 7, 10])
def test_a_device_that_is_lost_takes_all_networks_with_it(
    monkeypatch: pytest.MonkeyPatch,
    references: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]],
    number: int,
) -> None:
    """Frames of both are under way then: each is enhanced by what takes the place of its own."""
    faulty.install(monkeypatch, lambda *_: None)
    real, seen = faulty.FaultyEngine._collect, [0]

    def lose(self: faulty.FaultyEngine, slot: int) -> None:
        seen[0] += bool(self._flying)
        if seen[0] >= number and self._flying:
            raise RuntimeError("the device is lost")
        real(self, slot)

    monkeypatch.setattr(faulty.FaultyEngine, "_collect", lose)
    stage = begun(governed(faulty.NAME), dict(enumerate((NANO, SMALL) * 8, 1)))
    results = finished(stage, 16)
    assert [frame.index for frame in results] == list(range(16))
    for frame in results:  # float16 and int8 differ by more than `way_of` takes for the same
        errors = {
            name: np.abs(frame.planes[0].astype(int) - references[name][frame.index]).mean() for name in references
        }
        assert min(errors.values()) < 4, errors
    assert stage.engine_name == "openvino"
    assert stage.counts["engines failed"] == 1, "the main one; lighter networks are opened anew"


def test_an_engine_that_stays_on_its_thread_and_builds_no_plans_has_no_lighter_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty.install(monkeypatch, lambda *_: None)
    monkeypatch.setattr(faulty.FaultyEngine, "can_move", False)
    stage = governed(faulty.NAME)
    stage.open(numbered(0).format)
    assert stage.ladder is not None
    assert stage.ladder.governor is not None, "at once"
    assert [level.name for level in stage.ladder.governor.levels] == [
        "upscale-x2-small",
        "upscale-x2-small on every 2nd frame",
        "interpolation",
    ]
    assert len(finished(stage, 3)) == 3


def _networks(ladder: Ladder) -> list[Network]:
    return [rung.network for rung in ladder._rungs]


@pytest.mark.parametrize("waits", [False, True])
def test_closing_at_any_time_leaves_nothing(waits: bool) -> None:
    """Also while the lighter networks are still being opened; the suite's own check looks for threads."""
    stage = governed()
    stage.open(numbered(0).format)
    assert stage.ladder is not None
    if waits:
        assert stage.ladder._opener is not None
        stage.ladder._opener.join()
    stage.close()
    stage.close()
    assert stage.ladder._lighter == []


@pytest.fixture(autouse=True)
def _hear_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING):
        yield
