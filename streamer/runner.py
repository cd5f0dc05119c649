"""Which engine runs a model now, and what takes its place: a better one when its plan is built, another if it fails."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import engines
from streamer.channel import Cancelled
from streamer.fitting import Fitter, Fitting
from streamer.tiling import TilePlan

log = logging.getLogger(__name__)

SWAPS, REPLACED, FAILED = "engine swaps", "engines replaced", "engines failed"


class Runner:
    """The open engine of one model, which may become another one between two frames.

    A job that can't wait (`at_once`) starts on the best engine that is ready, and a child process builds the plan of a
    better one. That takes over when its plan is there; if it can't be built, a warning says why and nothing changes. An
    engine that was asked for by name is waited for instead. An engine that `distrust` names is replaced by the next
    one, in the order of `engines.engine_options`, and so is one that fails. Where memory runs out, the same engine is
    tried with smaller and smaller tiles first; before that, and where it fails otherwise, without the stabiliser.

    All of it happens on the thread that calls, which opens and closes every engine. So a new one is opened while the
    old one still has frames under way, and until it is open, no frame goes in; a live source drops what it can't hand
    on meanwhile, and counts it. The caller walks through a change so:

        if runner.prepare():     # the new engine is open and warm
            ...                  # collect all that the old one has under way
            runner.swap()
    """

    def __init__(
        self,
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
        """Of what happened: `SWAPS` to a better engine, and engines that were `REPLACED` because they can't be trusted,
        or because they `FAILED`."""
        self._asked, self._precision = engine, precision
        self._device, self._threads = device, threads
        self._at_once = at_once
        self._on_done: Callable[[], None] | None = None
        self._fitter: Fitter | None = None
        self._ways: list[Fitting] = []  # that are left, the best first
        self._way: Fitting | None = None
        self._engine: engines.Engine | None = None
        self._next: tuple[engines.Engine, Fitting, str] | None = None
        self._distrusted = ""
        self._build: engines.PlanBuild | None = None
        self._building: Fitting | None = None
        self._awaited: engines.PlanBuild | None = None
        self._made: engines.Engine | None = None
        self._interrupted = threading.Event()

    @property
    def engine(self) -> engines.Engine:
        """The one that takes frames now."""
        assert self._engine is not None
        return self._engine

    @property
    def plan(self) -> TilePlan:
        """How frames are cut for that one."""
        assert self._way is not None
        return self._way.plan

    @property
    def may_build(self) -> bool:
        """Whether plans of other networks may be built beside this one: it builds plans, and has its own."""
        return self._at_once and self._build is None and self.builds_plans

    @property
    def builds_plans(self) -> bool:
        """Whether the engine that takes frames now is of a kind that builds plans."""
        return self._way is not None and self._way.option.builds_plans

    def make_ready(self, fitter: Fitter, on_done: Callable[[], None] | None = None, *, may_build: bool) -> bool:
        """Does what takes long, on any thread, so that `open` for the same needs only to load it; whether that is done.

        It isn't if a plan is missing and may not be built. If it may, a child process does that, which is waited for.

        Raises:
            EngineError: there can be no such engine, or no plan.
            Cancelled: `interrupt` was called.
        """
        option = engines.engine_options(self._asked, self._precision)[0]
        self._wants_gpu = option.on_gpu
        request = self._request_for(fitter.fit(option))
        self._made = engines.ready_engine(request, threads=self._threads, on_done=on_done)
        if self._made is None and may_build:
            reason = self._await_plan(request)
            self._made = engines.ready_engine(request, threads=self._threads, on_done=on_done)
            if self._made is None:
                raise engines.EngineError(reason or "its plan was built, but could not be kept in the cache")
        return self._made is not None

    def open(self, fitter: Fitter, on_done: Callable[[], None] | None = None) -> None:
        """Opens an engine for the frames of `fitter`.

        For "auto", an engine on a GPU that can't be opened is passed over with a warning. `on_done` is for all engines
        that will be opened; see `engines.Engine.on_done`.

        Raises:
            EngineError: none can be opened.
            Cancelled: `interrupt` was called while a plan was being built.
        """
        self._fitter, self._on_done = fitter, on_done
        self._distrusted = ""
        options = engines.engine_options(self._asked, self._precision)
        self._ways = [fitter.fit(option) for option in options]
        self._wants_gpu = options[0].on_gpu
        try:
            self._take(*self._open_first())
        except engines.EngineError:
            if self._interrupted.is_set():
                raise Cancelled from None
            raise

    def interrupt(self) -> None:
        """Lets an engine that is being opened, or made ready, give up, if it has to build a plan. Any thread."""
        self._interrupted.set()
        awaited = self._awaited
        if awaited is not None:
            awaited.kill()

    def distrust(self, reason: str) -> None:
        """The engine that runs now gives bad pictures: the next `prepare` opens another one, if there is any left."""
        if self._next is None and self._others():
            self._distrusted = reason

    def prepare(self) -> bool:
        """Opens what is to take over, if anything is; whether it is there. Call it when a whole frame has gone in."""
        if self._next is None and self._distrusted:
            self._open_other()
        elif self._next is None and self._build is not None and self._build.ended:
            self._open_built()
        return self._next is not None

    def swap(self) -> None:
        """Closes the old engine, which must have nothing under way, and lets the new one take over.

        Nothing happens if the old one failed after `prepare`: the new one has taken its place already.
        """
        if self._next is not None:
            (engine, way, event), self._next = self._next, None
            self.engine.close()
            self._take(engine, way)
            self.counts[event] += 1

    def replace_failed(self, error: engines.InferenceError) -> None:
        """Closes an engine that failed, with all that it has under way, and opens another one, of another back end.

        Raises `error` if none opens.
        """
        failed, self._distrusted = self._way, ""
        assert failed is not None
        self.counts[FAILED] += 1
        log.warning("%s failed: %s", failed, error)
        if self._building is not None and self._building.option.name == failed.option.name:
            self._stop_build()
        self._ways = [way for way in self._ways if way.option.name != failed.option.name]
        prepared, self._next = self._next, None
        self.engine.close()
        try:
            found = prepared[:2] if prepared is not None else self._open_best(may_wait=not self._at_once)
        except engines.EngineError as other:
            log.warning("no other engine opens: %s", other)
            raise error from None
        self._take(*found)
        log.warning("%s takes the place of %s, and the frames that were under way", found[1], failed)

    def close(self) -> None:
        """Closes every engine and ends the child process. Twice is harmless."""
        self._stop_build()
        self._interrupted.clear()
        opened = [self._engine, self._next[0] if self._next else None]
        self._engine = self._next = None
        for engine in filter(None, opened):
            engine.close()

    def alike(self) -> Runner:
        """One for another model, on what this one runs on now."""
        assert self._way is not None
        option = self._way.option
        device = self._request_for(self._way).device
        return Runner(
            engine=option.name,
            device=device,
            precision=option.precision,
            threads=self._threads,
            at_once=self._at_once,
        )

    def _take(self, engine: engines.Engine, way: Fitting) -> None:
        self._engine, self._way = engine, way
        self.name, self.precision = engine.name, engine.precision
        if not way.is_whole:
            log.info("frames go through %s in %d tiles", way, len(way.plan.tiles))

    def _others(self) -> list[Fitting]:
        assert self._way is not None
        return [way for way in self._ways if way.option != self._way.option]

    def _open_first(self) -> tuple[engines.Engine, Fitting]:
        if self._asked == "auto":
            return self._open_best(may_wait=not self._at_once)
        return self._open_now(self._ways[0])

    def _open_best(self, *, may_wait: bool) -> tuple[engines.Engine, Fitting]:
        """The first way that opens, without those that have to be built if that may not be waited for."""
        for way in tuple(self._ways):
            try:
                found = self._open_now(way) if may_wait else self._open_if_ready(way)
                if found is not None:
                    return found
            except engines.EngineError as error:
                ended = self._engine is None and self._interrupted.is_set()  # before the first frame
                if ended or not way.option.on_gpu or way.option == self._ways[-1].option:
                    raise
                self._drop(way)
                log.warning("%s is passed over: %s", way, error)
        self._stop_build()  # there is nothing else, so it is waited for
        if not self._ways:
            raise engines.EngineError("there is no other engine")
        return self._open_now(self._ways[0])

    def _open_now(self, way: Fitting) -> tuple[engines.Engine, Fitting]:
        """Waits for its plan if it needs one; goes on to easier ways if it doesn't open."""
        while True:
            try:
                return self._open(way), way
            except engines.EngineError as error:
                way = self._easier(way, error)

    def _open_if_ready(self, way: Fitting) -> tuple[engines.Engine, Fitting] | None:
        """The same, but None where a plan is missing, which is being built then."""
        while True:
            try:
                if not self._is_ready(way):
                    self._start_build(way)
                    return None
                return self._open(way), way
            except engines.EngineError as error:
                way = self._easier(way, error)

    def _easier(self, way: Fitting, error: engines.EngineError) -> Fitting:
        """What to try on the same engine. Raises `error` if there is nothing, or the tiles are small enough already."""
        assert self._fitter is not None
        easier, what = self._fitter.unstabilised(way), "it is tried without the stabiliser, which the CPU runs then"
        no_memory = isinstance(error, engines.OutOfMemoryError)
        if easier is None and no_memory:
            easier = self._fitter.smaller(way)
            what = f"tiles of {easier.plan.tile_width}x{easier.plan.tile_height} are tried" if easier else ""
        if easier is None or (self._interrupted.is_set() and not no_memory):
            raise error
        log.warning("%s: %s", error, what)
        self._put(easier)
        return easier

    def _put(self, way: Fitting) -> None:
        """In the place of that of the same engine."""
        self._ways = [way if other.option == way.option else other for other in self._ways]

    def _open(self, way: Fitting) -> engines.Engine:
        made, self._made = self._made, None
        if made is not None:
            try:
                made.open()
            except engines.OutOfMemoryError as error:  # smaller tiles would need another plan
                raise engines.EngineError(str(error)) from None
            return made

        def progress(phase: str, done: int, steps: int) -> None:
            if self._interrupted.is_set():
                raise KeyboardInterrupt

        try:
            return engines.open_engine(
                self._request_for(way), threads=self._threads, progress=progress, on_done=self._on_done
            )
        except KeyboardInterrupt:
            if not self._interrupted.is_set():
                raise
        raise engines.EngineError(f"the plan of {way} was not built: it was interrupted")

    def _is_ready(self, way: Fitting) -> bool:
        return not way.option.builds_plans or engines.plan_is_ready(self._request_for(way))

    def _request_for(self, way: Fitting) -> engines.EngineRequest:
        # A GPU's number means nothing to the CPU that stands in for it.
        device = self._device if way.option.on_gpu or not self._wants_gpu else 0
        return replace(way.request, device=device)

    def _drop(self, way: Fitting) -> None:
        self._ways = [other for other in self._ways if other.option != way.option]

    def _open_other(self) -> None:
        assert self._way is not None
        old, reason = self._way, self._distrusted
        self._distrusted = ""
        self._drop(old)
        try:
            engine, way = self._open_best(may_wait=not self._at_once)
        except engines.EngineError as error:
            self._ways = []
            log.warning("%s %s, and no other engine opens, so it stays: %s", old, reason, error)
            return
        log.warning("%s %s: %s takes its place", old, reason, way)
        self._next = engine, way, REPLACED

    def _start_build(self, way: Fitting) -> None:
        if self._build is not None:
            return  # one at a time, the best one first
        build = engines.PlanBuild(self._request_for(way))
        build.start()
        self._build, self._building = build, way
        log.info("%s needs a plan, which is built in the background; another engine serves meanwhile", way)

    def _await_plan(self, request: engines.EngineRequest) -> str:
        """Has a plan built; why that failed, if it did."""
        build = engines.PlanBuild(request)
        try:
            build.start()
            self._awaited = build
            if self._interrupted.is_set():  # before the child was there to be killed
                build.kill()
            build.wait()
            if self._interrupted.is_set():
                raise Cancelled
            return build.failure()
        finally:
            self._awaited = None
            build.stop()

    def _open_built(self) -> None:
        assert self._build is not None
        assert self._building is not None
        way, reason = self._building, self._build.failure()
        self._stop_build()
        try:
            if self._is_ready(way):  # even if the child failed then: it may have lacked the memory to try it
                found = self._open_if_ready(way)
                if found is not None:
                    self._next = *found, SWAPS
                    log.info("the plan of %s is built: it takes over from %s", way, self.name)
                return
            reason = reason or "it was built, but could not be kept in the cache"
        except engines.EngineError as error:
            reason = str(error)
        try:
            easier = self._fitter.unstabilised(way) if self._fitter is not None else None
            if easier is not None:
                log.warning("there is no plan of %s with the stabiliser, so one without it is built: %s", way, reason)
                self._put(easier)
                self._start_build(easier)
                return
        except engines.EngineError as error:
            reason = str(error)
        self._drop(way)
        log.warning("there is no plan of %s, so %s goes on: %s", way, self.name, reason)

    def _stop_build(self) -> None:
        if self._build is not None:
            self._build.stop()
        self._build = self._building = None
