"""The deadline governor: how much work every frame may get, so that frames leave on time. Decisions only, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVER_SHARE, MISS_SHARE = 0.9, 0.1
"""Too much: an expected service time above this share of the budget, or this share of frames missed."""
DOWN_AFTER_NS = 500_000_000
"""So long it must have been too much."""
ON_TRIAL_NS, DOWN_ON_TRIAL_NS = 3_000_000_000, 200_000_000
"""A level that was gone up to is on trial for the first time: then the second is enough."""
DOWN_TO_SHARE = 0.75
"""The level to go down to is expected to need no more than this share of the budget."""
ROOM_SHARE, CALM_SHARE = 0.7, 0.02
"""Room: a higher level is expected to need no more than this share of the budget, and hardly a frame is missed."""
UP_AFTER_NS = 1_500_000_000
"""So long there must have been room."""
SETTLE_NS = 500_000_000
"""After a change, misses are those of the level before for so long."""
RETRY_NS, RETRY_MAX_NS = 10_000_000_000, 30_000_000_000
"""A level that failed isn't tried again for so long, and after every further failure for twice as long, up to this."""
RECOVERED_SHARE = 0.8
"""Unless work has become so much faster than when it failed: the load has changed."""
PROVEN_NS = 30_000_000_000
"""A level that lasted for so long is as good as new."""

_SMOOTH_NS = 300_000_000
"""Time constant of the means."""


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the ladder: what is done, and `cost`, the network's work per frame in any one unit (0: none)."""

    name: str
    cost: float


@dataclass(frozen=True, slots=True)
class Change:
    """A decision: from one level (an index into the ladder) to another, and why."""

    before: int
    after: int
    reason: str


@dataclass(slots=True)
class _Failure:
    unit_ns: float
    """How long a unit of work took, or was thought to take, when the level failed."""
    wait_ns: int
    until_ns: int


class Mean:
    """An exponential mean over time, of samples that may come at any distance. `value` is None before the first."""

    def __init__(self, time_constant_ns: int = _SMOOTH_NS) -> None:
        self.value: float | None = None
        self._time_constant_ns = time_constant_ns
        self._at_ns = 0

    def add(self, value: float, now_ns: int) -> None:
        if self.value is None:
            self.value = value
        else:
            weight = 1 - math.exp(-max(now_ns - self._at_ns, 1_000_000) / self._time_constant_ns)
            self.value += weight * (value - self.value)
        self._at_ns = now_ns


class Governor:
    """Goes down a ladder of levels when frames take too long, and up again when there is room.

    `levels` go from the chosen network (the start) to the least work, `budget_ns` is the time per frame, which may be
    set anew. It is told of every frame and every inference, and asked in between; all times are of one monotonic clock,
    in nanoseconds.

    Down: when the expected service time exceeds 90 % of the budget, or a tenth of the frames is missed (late, or lost
    before the network), for half a second, or for a fifth of one soon after it went up. It goes to the first level that
    is expected to need at most 75 % of the budget, but at least one down. Up: when the expectation for a higher level
    has been at most 70 % for one and a half seconds. What is expected of a level is the mean time per unit of work,
    times its cost.

    That expectation can be wrong, because a lighter load has less contention. So a level that failed is not tried again
    for 10 s, doubled up to 30 s at every failure that follows soon, unless a unit of work now takes 20 % less than what
    misled it. With that, a steady load makes no oscillation, and the end of a load is answered at once. For one thread.
    """

    def __init__(self, levels: Sequence[Level], budget_ns: int) -> None:
        self.levels = tuple(levels)
        self.budget_ns = budget_ns
        self.level = 0
        self._unit, self._missed = Mean(), Mean()
        self._over_since: int | None = None
        self._room_since: int | None = None
        self._changed_ns: int | None = None
        self._raised_unit_ns: float | None = None
        self._failures: dict[int, _Failure] = {}

    def set_levels(self, levels: Sequence[Level]) -> None:
        """Another ladder takes the place of this one: it goes on at the first level that is no more work than now."""
        work, failures = self.levels[self.level].cost, self._failures
        names = [level.name for level in levels]
        self._failures = {
            names.index(self.levels[level].name): failure
            for level, failure in failures.items()
            if self.levels[level].name in names
        }
        self.levels = tuple(levels)
        self.level = next(number for number, level in enumerate(levels) if level.cost <= work)
        self._over_since = self._room_since = None
        self._missed = Mean()

    def frame(self, now_ns: int, missed: int = 0, *, late: bool = False) -> None:
        """One frame left; `missed` frames before it were lost, and it was itself `late` or not."""
        if self._changed_ns is None:
            self._changed_ns = now_ns  # what is late at the beginning waited for the engine to open
        if now_ns - self._changed_ns >= SETTLE_NS:
            self._missed.add((missed + late) / (missed + 1), now_ns)

    def inference(self, now_ns: int, service_ns: float, cost: float) -> None:
        """One frame's inference took `service_ns` (of the time that parallel ones share) for `cost` units of work."""
        self._unit.add(service_ns / cost, now_ns)

    def decide(self, now_ns: int) -> Change | None:
        """What to do now; `level` is already the new one then."""
        over = self._over()
        self._over_since = _since(self._over_since, now_ns) if over else None
        higher = None if over else self._higher(now_ns)
        self._room_since = _since(self._room_since, now_ns) if higher is not None else None
        if self._over_since is not None and now_ns - self._over_since >= self._patience_ns(now_ns):
            return self._go_down(now_ns, over)
        if higher is not None and self._room_since is not None and now_ns - self._room_since >= UP_AFTER_NS:
            return self._go_up(now_ns, higher)
        return None

    def expected_ns(self, level: int) -> float:
        """The service time that a frame would need at `level`; 0 while nothing was measured."""
        return (self._unit.value or 0.0) * self.levels[level].cost

    def _over(self) -> str:
        """What is too much, or nothing."""
        if self.level == len(self.levels) - 1:
            return ""
        expected_ns = self.expected_ns(self.level)
        if expected_ns > OVER_SHARE * self.budget_ns:
            return f"a frame takes {_ms(expected_ns)} of {_ms(self.budget_ns)} ms"
        if (self._missed.value or 0.0) > MISS_SHARE:
            return f"{self._missed.value or 0.0:.0%} of the frames are late or lost"
        return ""

    def _higher(self, now_ns: int) -> int | None:
        """The best level that there is room for, if any."""
        if self._unit.value is None or (self._missed.value or 0.0) > CALM_SHARE:
            return None
        for level in range(self.level):
            fits = self.expected_ns(level) <= ROOM_SHARE * self.budget_ns
            if fits and not any(self._is_barred(each, now_ns) for each in range(level, self.level)):
                return level
        return None

    def _patience_ns(self, now_ns: int) -> int:
        on_trial = self._raised_unit_ns is not None and now_ns - _since(self._changed_ns, now_ns) < ON_TRIAL_NS
        return DOWN_ON_TRIAL_NS if on_trial else DOWN_AFTER_NS

    def _is_barred(self, level: int, now_ns: int) -> bool:
        failure, unit_ns = self._failures.get(level), self._unit.value or 0.0
        return failure is not None and now_ns < failure.until_ns and unit_ns > RECOVERED_SHARE * failure.unit_ns

    def _go_down(self, now_ns: int, reason: str) -> Change:
        lower = range(self.level + 1, len(self.levels))
        fitting = (level for level in lower if self.expected_ns(level) <= DOWN_TO_SHARE * self.budget_ns)
        self._note_failure(now_ns)
        self._raised_unit_ns = None
        return self._go(next(fitting, lower[-1]), now_ns, reason)

    def _go_up(self, now_ns: int, level: int) -> Change:
        self._raised_unit_ns = self._unit.value
        reason = (
            f"there is room: a frame is expected to take {_ms(self.expected_ns(level))} of {_ms(self.budget_ns)} ms"
        )
        return self._go(level, now_ns, reason)

    def _note_failure(self, now_ns: int) -> None:
        unit_ns = self._unit.value or 0.0
        lasted_ns = now_ns - _since(self._changed_ns, now_ns)
        before = self._failures.get(self.level)
        again = before is not None and lasted_ns < PROVEN_NS and self._raised_unit_ns is not None
        wait_ns = min(RETRY_MAX_NS, 2 * before.wait_ns) if before is not None and again else RETRY_NS
        misled_ns = unit_ns if self._raised_unit_ns is None else min(unit_ns, self._raised_unit_ns)
        self._failures[self.level] = _Failure(misled_ns, wait_ns, now_ns + wait_ns)

    def _go(self, level: int, now_ns: int, reason: str) -> Change:
        change = Change(self.level, level, reason)
        self.level, self._changed_ns = level, now_ns
        self._over_since = self._room_since = None
        self._missed = Mean()
        return change


def _since(began_ns: int | None, now_ns: int) -> int:
    return now_ns if began_ns is None else began_ns


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.1f}"
