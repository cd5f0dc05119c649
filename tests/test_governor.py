"""The governor's decisions, on a simulated machine: load steps, oscillation, drift, recovery. No clock runs here."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from streamer.governor import RETRY_MAX_NS, RETRY_NS, Change, Governor, Level

MS, S = 1_000_000, 1_000_000_000
INTERVAL = S // 30
LEVELS = (Level("medium", 57.0), Level("small", 12.6), Level("nano", 5.1), Level("half", 2.55), Level("none", 0.0))
SMALL = LEVELS[1:]
NEEDED_MS = {"medium": 46.0, "small": 13.2, "nano": 8.0, "half": 4.0, "none": 1.0}
"""What each level really takes on the idle machine: not in proportion to its cost."""

Load = Callable[[float, str], float]
"""At a time in seconds and at a level: how many times as long everything takes."""


class Machine:
    """A queue of at most four frames before one server, and a frame every thirtieth of a second."""

    def __init__(self, load: Load, levels: tuple[Level, ...] = SMALL, budget_ns: int = INTERVAL) -> None:
        self.governor = Governor(levels, budget_ns)
        self.changes: list[tuple[float, Change]] = []
        self.on_time: list[bool] = []
        self._load, self._interval = load, budget_ns
        self._free_ns = self._probed_ns = self._missed = self._number = 0

    def run(self, seconds: float) -> Machine:
        for _ in range(int(seconds * S / self._interval)):
            self._step()
        return self

    def level_at(self, seconds: float) -> int:
        return next((change.after for when, change in reversed(self.changes) if when <= seconds), 0)

    def share_on_time(self, start_s: float = 0, end_s: float = 1e9) -> float:
        frames = self.on_time[int(start_s * S / self._interval) : int(min(end_s, 1e6) * S / self._interval)]
        return sum(frames) / len(frames)

    def _step(self) -> None:
        arrived_ns = self._number * self._interval
        self._number += 1
        if self._free_ns - arrived_ns > 4 * self._interval:
            self._missed += 1
            self.on_time.append(False)
            return
        governor = self.governor
        level = governor.levels[governor.level]
        factor = self._load(arrived_ns / S, level.name)
        service_ns = int(NEEDED_MS[level.name] * MS * factor)
        self._free_ns = now_ns = max(arrived_ns, self._free_ns) + service_ns
        self._tell_service(level, service_ns, factor, now_ns)
        late = now_ns - arrived_ns >= 3 * self._interval
        self.on_time.append(not late)
        governor.frame(now_ns, self._missed, late=late)
        self._missed = 0
        if change := governor.decide(now_ns):
            self.changes.append((now_ns / S, change))

    def _tell_service(self, level: Level, service_ns: int, factor: float, now_ns: int) -> None:
        if level.name not in ("half", "none"):
            self.governor.inference(now_ns, service_ns, level.cost)
        elif level.name == "half" and self._number % 2:
            self.governor.inference(now_ns, 2 * service_ns, 2 * level.cost)
        elif level.name == "none" and now_ns - self._probed_ns > S // 4:
            self._probed_ns = now_ns
            self.governor.inference(now_ns, NEEDED_MS["nano"] * MS * factor, 5.1)


def between(start_s: float, end_s: float, factor: float) -> Load:
    return lambda when_s, level: factor if start_s <= when_s < end_s else 1.0


def test_an_idle_machine_keeps_its_network() -> None:
    machine = Machine(lambda when_s, level: 1.0).run(120)
    assert machine.changes == []
    assert machine.share_on_time() == 1


@pytest.mark.parametrize("levels", [SMALL, SMALL[1:]], ids=["small", "nano"])
@pytest.mark.parametrize("factor", [1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 15.0])
def test_a_load_costs_few_frames_and_is_forgotten_within_five_seconds(factor: float, levels: tuple[Level, ...]) -> None:
    machine = Machine(between(20, 60, factor), levels).run(80)
    assert machine.share_on_time(20, 60) >= 0.95
    assert machine.level_at(20) == 0
    assert machine.level_at(65) == 0
    assert machine.level_at(80) == 0
    assert machine.share_on_time(61) == 1
    if NEEDED_MS[levels[0].name] * factor > 34:
        assert machine.level_at(30) > 0
    assert len(machine.changes) <= 8


def test_the_end_of_a_short_load_is_not_waited_out() -> None:
    """Its level has just failed, but everything is faster now than it was then."""
    machine = Machine(between(20, 24, 3.0)).run(40)
    assert machine.level_at(23) > 0
    assert machine.level_at(27) == 0


def test_a_moment_s_calm_is_no_room() -> None:
    machine = Machine(lambda when_s, level: 1.0 if when_s % 3 > 2.3 else 3.0).run(60)
    assert len(machine.changes) <= 4
    assert machine.level_at(60) > 0


def test_a_load_that_is_too_much_for_any_network_leaves_interpolation() -> None:
    machine = Machine(between(10, 200, 12.0)).run(200)
    assert machine.level_at(199) == len(SMALL) - 1
    assert machine.share_on_time(12) >= 0.99
    assert "of 33.3 ms" in machine.changes[0][1].reason


def test_a_network_too_heavy_from_the_beginning_gives_way_once() -> None:
    machine = Machine(lambda when_s, level: 1.0, LEVELS).run(120)
    assert [change.after for _, change in machine.changes] == [1]
    assert machine.share_on_time(2) == 1


def test_a_slow_drift_goes_down_step_by_step_and_never_up() -> None:
    machine = Machine(lambda when_s, level: 1 + when_s / 60).run(420)
    afters = [change.after for _, change in machine.changes]
    assert afters == sorted(set(afters))
    assert 2 <= len(afters) <= 3
    assert machine.share_on_time() >= 0.95


@pytest.mark.parametrize("contention", [1.3, 1.6, 2.0, 2.5])
def test_what_looks_like_room_but_isnt_makes_no_oscillation(contention: float) -> None:
    """The chosen network is too slow only while it runs: its own threads are in the way of the encoder's."""
    machine = Machine(lambda when_s, level: 2.6 if level == "small" else 2.6 / contention).run(600)
    assert machine.share_on_time() >= 0.95
    tries = 600 * S / RETRY_MAX_NS
    assert len(machine.changes) <= 2 * tries + 4


def test_noise_around_the_limit_makes_no_oscillation() -> None:
    def wavering(when_s: float, level: str) -> float:
        return 2.2 + 0.5 * ((when_s * 7.3) % 1.0 - 0.5)

    machine = Machine(wavering).run(300)
    assert len(machine.changes) <= 12
    assert machine.share_on_time() >= 0.95


def test_frames_that_are_late_elsewhere_count_too() -> None:
    """The network is fast, but the machine isn't: less work for the one leaves more for the others."""
    governor = Governor(SMALL, INTERVAL)
    changes = []
    for number in range(90):
        now_ns = number * INTERVAL
        governor.inference(now_ns, 5 * MS, SMALL[0].cost)
        governor.frame(now_ns, late=number % 4 == 0)
        changes += [change for change in [governor.decide(now_ns)] if change is not None]
    change = changes[0]
    assert (change.before, change.after) == (0, 1)
    assert "late or lost" in change.reason


def test_what_was_late_while_the_engine_opened_is_forgiven() -> None:
    governor = Governor(SMALL, INTERVAL)
    for number in range(120):
        governor.frame(number * INTERVAL, missed=20 if number == 0 else 0, late=number < 12)
        governor.inference(number * INTERVAL, 10 * MS, SMALL[0].cost)
        assert governor.decide(number * INTERVAL) is None


def test_a_level_that_failed_is_left_alone_for_longer_every_time() -> None:
    machine = Machine(lambda when_s, level: 2.6 if level == "small" else 1.0).run(200)
    ups = [when for when, change in machine.changes if change.after == 0]
    waits = [b - a for a, b in itertools.pairwise(ups)]
    assert len(waits) >= 4
    assert waits[0] >= RETRY_NS / S
    assert waits[1] > 1.3 * waits[0]
    assert min(waits[2:]) >= RETRY_MAX_NS / S
    assert max(waits) < 1.2 * RETRY_MAX_NS / S


@pytest.mark.parametrize(("before", "after"), [("small", "small"), ("half of small", "nano"), ("none", "none")])
def test_networks_that_join_later_change_nothing_at_once(before: str, after: str) -> None:
    """It goes on with the most work that is no more than now."""
    first = (SMALL[0], Level("half of small", 6.3), SMALL[-1])
    governor = Governor(first, INTERVAL)
    governor.level = [level.name for level in first].index(before)
    governor.set_levels(SMALL)
    assert SMALL[governor.level].name == after
    assert governor.decide(0) is None


def test_a_level_that_failed_is_remembered_when_others_join() -> None:
    machine = Machine(lambda s, name: 3.0, levels=(SMALL[0], *SMALL[2:])).run(3)
    assert [(change.before, change.after) for _, change in machine.changes] == [(0, 1)]
    machine.governor.set_levels(SMALL)
    assert SMALL[machine.governor.level].name == "half"
    tried = [level for level, failure in machine.governor._failures.items() if failure.until_ns > 3 * S]
    assert tried == [0], "the network that was too much"
