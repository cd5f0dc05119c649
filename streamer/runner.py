"""Which engine runs a model now, and what takes its place: a better one when its plan is built, another if it fails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import engines
from onnx_models.cards import ModelCard
from streamer.tiling import TilePlan

log = logging.getLogger(__name__)

SWAPS, REPLACED = "engine swaps", "engines replaced"


class Runner:
    """The open engine of one model, which may become another one between two frames.

    A job that can't wait (`at_once`) starts on the best engine that is ready, and a child process builds the plan of a
    better one. That takes over when its plan is there; if it can't be built, a warning says why and nothing changes. An
    engine that was asked for by name is waited for instead. An engine that `distrust` names is replaced by the next
    one, in the order of `engines.engine_options`.

    All of it happens on the thread that calls, which opens and closes every engine. So a new one is opened while the
    old one still has frames under way, and until it is open, no frame goes in; a live source drops what it can't hand
    on meanwhile, and counts it. The caller walks through a change so:

        if runner.prepare():     # the new engine is open and warm
            ...                  # collect all that the old one has under way
            runner.swap()
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        engine: str = "auto",
        device: int = 0,
        precision: str = "auto",
        threads: int | None = None,
        at_once: bool = False,
    ) -> None:
        self.name = engine
        """Of the back end that runs or ran; before `open`, the one asked for."""
        self.precision = precision
        """Of the engine that runs or ran; before `open`, the one asked for."""
        self.counts: Counter[str] = Counter()
        """Of what happened: `SWAPS` to a better engine, and engines `REPLACED` because they can't be trusted."""
        self._card = card
        self._asked, self._precision = engine, precision
        self._device, self._threads = device, threads
        self._at_once = at_once
        self._request: engines.EngineRequest | None = None
        self._on_done: Callable[[], None] | None = None
        self._options: list[engines.EngineOption] = []
        self._option: engines.EngineOption | None = None
        self._engine: engines.Engine | None = None
        self._next: tuple[engines.Engine, engines.EngineOption, str] | None = None
        self._distrusted = ""
        self._build: engines.PlanBuild | None = None
        self._building: engines.EngineOption | None = None

    @property
    def engine(self) -> engines.Engine:
        """The one that takes frames now."""
        assert self._engine is not None
        return self._engine

    def open(self, plan: TilePlan, bits: int, on_done: Callable[[], None] | None = None) -> None:
        """Opens an engine for the tiles of `plan`, `bits` a sample. Raises EngineError if none can be opened.

        For "auto", an engine on a GPU that can't be opened is passed over with a warning. `on_done` is for all engines
        that will be opened; see `engines.Engine.on_done`.
        """
        self._request = engines.EngineRequest(self._card.path, plan.tile_width, plan.tile_height, bits)
        self._on_done = on_done
        self._distrusted = ""
        self._options = list(engines.engine_options(self._asked, self._precision))
        self._wants_gpu = self._options[0].on_gpu
        if self._asked == "auto":
            self._engine, self._option = self._open_best(may_wait=not self._at_once)
        else:
            self._option = self._options[0]
            self._engine = self._open(self._option)
        self.name, self.precision = self._engine.name, self._engine.precision

    def distrust(self, reason: str) -> None:
        """The engine that runs now gives bad pictures: the next `prepare` opens another one, if there is any left."""
        if self._next is None and any(option != self._option for option in self._options):
            self._distrusted = reason

    def prepare(self) -> bool:
        """Opens what is to take over, if anything is; whether it is there. Call it when a whole frame has gone in."""
        if self._next is None and self._distrusted:
            self._open_other()
        elif self._next is None and self._build is not None and self._build.ended:
            self._open_built()
        return self._next is not None

    def swap(self) -> None:
        """Closes the old engine, which must have nothing under way, and lets the new one take over."""
        assert self._next is not None
        self.engine.close()
        (self._engine, self._option, event), self._next = self._next, None
        self.name, self.precision = self._engine.name, self._engine.precision
        self.counts[event] += 1

    def close(self) -> None:
        """Closes every engine and ends the child process. Twice is harmless."""
        self._stop_build()
        opened = [self._engine, self._next[0] if self._next else None]
        self._engine = self._next = None
        for engine in filter(None, opened):
            engine.close()

    def _open_best(self, *, may_wait: bool) -> tuple[engines.Engine, engines.EngineOption]:
        """The first option that opens, without those that have to be built if that may not be waited for."""
        for option in tuple(self._options):
            try:
                if may_wait or self._is_ready(option):
                    return self._open(option), option
                self._start_build(option)
            except engines.EngineError as error:
                if not option.on_gpu or option is self._options[-1]:
                    raise
                self._drop(option)
                log.warning("%s is passed over: %s", option, error)
        self._stop_build()  # there is nothing else, so it is waited for
        return self._open(self._options[0]), self._options[0]

    def _open(self, option: engines.EngineOption) -> engines.Engine:
        return engines.open_engine(self._request_for(option), threads=self._threads, on_done=self._on_done)

    def _is_ready(self, option: engines.EngineOption) -> bool:
        return not option.builds_plans or engines.plan_is_ready(self._request_for(option))

    def _request_for(self, option: engines.EngineOption) -> engines.EngineRequest:
        assert self._request is not None
        # A GPU's number means nothing to the CPU that stands in for it.
        device = self._device if option.on_gpu or not self._wants_gpu else 0
        return option.applied_to(replace(self._request, device=device))

    def _drop(self, option: engines.EngineOption) -> None:
        self._options = [other for other in self._options if other != option]

    def _open_other(self) -> None:
        assert self._option is not None
        old, reason = self._option, self._distrusted
        self._distrusted = ""
        self._drop(old)
        try:
            engine, option = self._open_best(may_wait=not self._at_once)
        except engines.EngineError as error:
            self._options = []
            log.warning("%s %s, and no other engine opens, so it stays: %s", old, reason, error)
            return
        log.warning("%s %s: %s takes its place", old, reason, option)
        self._next = engine, option, REPLACED

    def _start_build(self, option: engines.EngineOption) -> None:
        if self._build is not None:
            return  # one at a time, the best one first
        build = engines.PlanBuild(self._request_for(option))
        build.start()
        self._build, self._building = build, option
        log.info("%s needs a plan, which is built in the background; another engine starts meanwhile", option)

    def _open_built(self) -> None:
        assert self._build is not None
        assert self._building is not None
        option, reason = self._building, self._build.failure()
        self._stop_build()
        try:
            if not reason and not self._is_ready(option):
                reason = "it was built, but could not be kept in the cache"
            if not reason:
                self._next = self._open(option), option, SWAPS
                log.info("the plan of %s is built: it takes over from %s", option, self.name)
                return
        except engines.EngineError as error:
            reason = str(error)
        self._drop(option)
        log.warning("there is no plan of %s, so %s goes on: %s", option, self.name, reason)

    def _stop_build(self) -> None:
        if self._build is not None:
            self._build.stop()
        self._build = self._building = None
