"""The ladder that a governor moves on: which network enhances the next frame, or whether it is interpolated."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import engines
from onnx_models.cards import CardError, ModelCard, list_cards
from streamer.channel import Cancelled
from streamer.frame import DEFAULT_RATE, Frame, VideoFormat
from streamer.governor import Governor, Level, Mean
from streamer.network import Network

log = logging.getLogger(__name__)

STEPS_DOWN, STEPS_UP = "governor steps down", "governor steps up"
LATE_INTERVALS = 3
"""A frame that leaves so many frame intervals after its capture, or later, has missed its slot."""

_PROBE_NS = 250_000_000
_RATE_NS = 2_000_000_000
"""Time constant of the stream's measured frame interval, and of what is behind."""
_WAITS = 64
"""So many are remembered; a frame is older than that only where the network holds it."""


def interval_ns(format: VideoFormat, fps: Fraction | None = None) -> int:
    """The time from frame to frame that is promised: of `fps`, else of the stream's nominal rate."""
    return int(10**9 / (fps or format.rate or DEFAULT_RATE))


def lighter_cards(card: ModelCard) -> list[ModelCard]:
    """Shipped models that can take the place of `card` with less work, the heaviest first.

    They are of its flavour, or faithful ones where it is vivid.
    """

    def kind(other: ModelCard) -> tuple[object, ...]:
        return other.task, other.scale, other.color, other.conditioned

    flavours = {card.flavour, ""}
    fitting = [
        other
        for other in list_cards()
        if kind(other) == kind(card) and other.flavour in flavours and other.macs_per_px < card.macs_per_px
    ]
    return sorted(fitting, key=lambda other: -other.macs_per_px)


@dataclass(frozen=True, slots=True)
class Rung:
    """One level: every `every`-th frame goes through `network` (0: none), the others are interpolated."""

    network: Network
    every: int

    @property
    def level(self) -> Level:
        name, macs = self.network.card.name, self.network.card.macs_per_px
        if not self.every:
            return Level("interpolation", 0)
        return Level(name if self.every == 1 else f"{name} on every 2nd frame", macs / self.every)


class _Behind:
    """How far what is behind the stage, such as an encoder, holds it up. All times in nanoseconds of one clock."""

    def __init__(self) -> None:
        self._frame = Mean(_RATE_NS)
        self._waits: deque[tuple[int, int]] = deque(maxlen=_WAITS)  # when each began and ended
        self._held_ns = self._since = 0

    @property
    def frame_ns(self) -> float:
        """What it takes for a frame, as far as that shows; 0 as long as it was never too slow."""
        return self._frame.value or 0.0

    def held(self, now_ns: int, duration_ns: int) -> None:
        """A frame had to wait so long, until now."""
        if self._waits and self._since == 1:  # it did nothing else between this wait and the one before
            self._frame.add(now_ns - self._waits[-1][1], now_ns)
        self._waits.append((now_ns - duration_ns, now_ns))
        self._held_ns += duration_ns
        self._since = 0

    def left(self) -> int:
        """Another frame leaves; how long it was held up since the one before."""
        self._since += 1
        held_ns, self._held_ns = self._held_ns, 0
        return held_ns

    def held_since(self, since_ns: int) -> int:
        """For how long altogether."""
        return sum(end - max(begin, since_ns) for begin, end in self._waits if end > since_ns)


class Ladder:
    """The networks of one stage, from the chosen one down, and what happens to each frame.

    Lighter networks are opened on a thread of their own while the stream begins, so that no frame waits for them, and
    kept open; each takes the memory of one engine. Governing begins when they are there.

    An engine that must stay on its thread and builds plans (TensorRT) begins without them: its frames are enhanced,
    every second one is, or none. Lighter networks join between two frames, one at a time: first those whose plan is in
    the cache, then, if the job can't wait, the others as a child process has built theirs. A frame waits for one to be
    loaded, never for a plan. Other engines that stay on their thread have none.

    The budget is the interval from frame to frame: at first the nominal one, then as measured, since many cameras send
    at another rate than they say. While frames are only interpolated, four times a second the network is tried in all
    its slots, which shows what a frame would take. For the stage's thread.
    """

    def __init__(
        self,
        main: Network,
        make: Callable[[ModelCard], Network],
        fps: Fraction | None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.frames: Counter[str] = Counter()
        """By the name of the level that they were taken in at."""
        self.counts: Counter[str] = Counter()
        self.governor: Governor | None = None
        """None while the lighter networks are being opened."""
        self._main, self._make, self._fps, self._clock = main, make, fps, clock
        self._rungs: tuple[Rung, ...] = (Rung(main, 1),)
        self._lighter: list[Network] = []
        self._opener: threading.Thread | None = None
        self._preparing: list[Network] = []
        self._ready: deque[Network] = deque()  # from the preparing thread to the stage's; no more than there are
        self._last: Frame | None = None
        self._interval = Mean(_RATE_NS)
        self._behind = _Behind()
        self._lost = self._number = self._probed_ns = 0

    @property
    def level(self) -> int:
        """0 is the chosen network on every frame. Any thread."""
        return self.governor.level if self.governor is not None else 0

    @property
    def level_name(self) -> str:
        """Any thread."""
        return self._rungs[self.level].level.name

    def open(self, format: VideoFormat, on_done: Callable[[], None] | None) -> None:
        """Starts opening lighter networks; the main one is open."""
        self._format, self._on_done = format, on_done
        self._budget_ns = interval_ns(format, self._fps)
        self._interval.add(self._budget_ns, self._clock())
        self.restart()

    def restart(self) -> None:
        """The main network's engine is another one now: all below it is opened anew. Nothing is in flight."""
        self._close_lighter()
        self.governor, self._rungs = None, (Rung(self._main, 1),)
        made = [self._make(card) for card in lighter_cards(self._main.card)]
        if self._main.engine.can_move:
            self._opener = threading.Thread(target=self._open_lighter, args=(made,), name="open networks", daemon=True)
            self._opener.start()
            return
        self._govern()
        if self._main.runner.builds_plans and made:
            self._preparing = made
            work = tuple(made), self._main.runner.may_build
            self._opener = threading.Thread(target=self._prepare, args=work, name="prepare networks", daemon=True)
            self._opener.start()

    def choose(self, frame: Frame) -> Network | None:
        """The network for this frame, or None if it is to be interpolated. Also counts what was lost before it."""
        if self.governor is None and self._opener is not None and not self._opener.is_alive():
            self._begin()
        elif self._ready:
            self._admit(self._ready.popleft())
        self._follow(frame)
        rung = self._rungs[self.level]
        self.frames[rung.level.name] += 1
        self._number += 1
        return rung.network if rung.every and self._number % rung.every == 0 else None

    def probe(self) -> Network | None:
        """The network to try while all frames are interpolated, when it is time."""
        now_ns = self._clock()
        if self._rungs[self.level].every or now_ns - self._probed_ns < _PROBE_NS:
            return None
        self._probed_ns = now_ns
        return self._rungs[self.level].network

    def inferred(self, network: Network, service_ns: float) -> None:
        """One frame's inference is done."""
        if self.governor is not None:
            self.governor.inference(self._clock(), service_ns, network.card.macs_per_px)

    def held(self, duration_ns: int) -> None:
        """The frame that left last had to wait so long for what is behind."""
        self._behind.held(self._clock(), duration_ns)

    def left(self, frame: Frame) -> None:
        """One frame leaves; from here on everything may be different."""
        lost, self._lost = self._lost, 0
        held_ns = self._behind.left()
        if self.governor is None:
            return
        now_ns = self._clock()
        age_ns = now_ns - frame.captured_ns
        if self._behind.frame_ns - self.governor.expected_ns(self.level) > self._budget_ns:
            # Less work here wouldn't help: even with all of its time, what is behind would be too slow.
            age_ns -= self._behind.held_since(frame.captured_ns)
            lost = max(0, lost - math.ceil(held_ns / self._budget_ns))
        self.governor.frame(now_ns, lost, late=age_ns >= LATE_INTERVALS * self._budget_ns)
        change = self.governor.decide(now_ns)
        if change is None:
            return
        before, after = self.governor.levels[change.before].name, self.governor.levels[change.after].name
        self.counts[STEPS_DOWN if change.after > change.before else STEPS_UP] += 1
        log.warning("governor: %s instead of %s: %s", after, before, change.reason)

    def close(self) -> None:
        self._close_lighter()

    def _follow(self, frame: Frame) -> None:
        """Counts what was lost before a frame, and measures the time from frame to frame."""
        last, self._last = self._last, replace(frame, planes=(), packets=())
        if last is None or frame.index <= last.index:
            return
        steps = frame.index - last.index
        self._lost += steps - 1
        if not frame.discontinuity:
            self._interval.add(float((frame.time - last.time) * 10**9) / steps, self._clock())
            if self._interval.value is not None and self._interval.value > 0:
                self._budget_ns = round(self._interval.value)
        if self.governor is not None:
            self.governor.budget_ns = self._budget_ns

    def _begin(self) -> None:
        assert self._opener is not None
        self._opener.join()
        self._opener = None
        for network in self._lighter:
            network.runner.engine.adopt()
        self._govern()

    def _govern(self) -> None:
        """Makes the rungs of the networks that are open."""
        networks = [self._main, *sorted(self._lighter, key=lambda network: -network.card.macs_per_px)]
        lightest = networks[-1]
        self._rungs = (*(Rung(network, 1) for network in networks), Rung(lightest, 2), Rung(lightest, 0))
        levels = [rung.level for rung in self._rungs]
        if self.governor is None:
            self.governor = Governor(levels, self._budget_ns)
        else:
            self.governor.set_levels(levels)

    def _admit(self, network: Network) -> None:
        """Opens a network that was made ready; frames that are under way go on meanwhile."""
        try:
            network.open(self._format, self._on_done)
        except (CardError, engines.EngineError) as error:
            log.warning("the governor goes without %s: %s", network.card.name, error)
            return
        self._lighter.append(network)
        self._govern()
        log.info("the governor has %s, too", network.card.name)

    def _prepare(self, networks: Sequence[Network], may_build: bool) -> None:
        """Makes networks ready for `_admit`: those with a plan first, then those that need one, build after build."""
        waiting = list(networks)
        for may_wait in (False, True) if may_build else (False,):
            for network in tuple(waiting):
                try:
                    if not network.make_ready(self._format, self._on_done, may_build=may_wait):
                        continue
                    self._ready.append(network)
                except (CardError, engines.EngineError) as error:
                    log.warning("the governor goes without %s: %s", network.card.name, error)
                except Cancelled:
                    return
                waiting.remove(network)
        for network in waiting:
            log.info("the governor goes without %s, whose plan isn't in the cache", network.card.name)

    def _open_lighter(self, networks: list[Network]) -> None:
        for network in networks:
            try:
                network.open(self._format, self._on_done)
            except (CardError, engines.EngineError) as error:
                log.warning("the governor goes without %s: %s", network.card.name, error)
            else:
                self._lighter.append(network)

    def _close_lighter(self) -> None:
        opener, self._opener = self._opener, None
        preparing, self._preparing = self._preparing, []
        for network in preparing:
            network.runner.interrupt()
        if opener is not None:
            opener.join()  # takes a fraction of a second for each
        self._ready.clear()
        lighter, self._lighter = self._lighter, []
        for network in lighter:
            if network.engine.can_move:
                network.engine.adopt()
            network.close()
