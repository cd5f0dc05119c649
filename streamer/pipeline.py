"""capture → stages → deliver: one thread each, joined by bounded channels, walked forward only.

`capture` reads the source; each stage has a thread; `deliver` writes every sink in turn. The end ripples downstream
by closing channels, and stages flush what they hold. A failing stage or sink cancels everything: sinks abort and
leave nothing behind. A failing source ends the stream early: what was read is delivered and finished, then the error
is raised. `wait()` re-raises the first cause with its traceback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from types import TracebackType

from streamer.channel import Cancelled, Channel, Ended, Overflow, Woken
from streamer.frame import Frame
from streamer.governor import Mean
from streamer.ladder import LATE_INTERVALS, interval_ns
from streamer.stage import (
    DROPPED_ON_ARRIVAL,
    SKIPPED,
    Counting,
    Interruptible,
    Prompt,
    Queueing,
    Reporting,
    Sink,
    Sounding,
    Source,
    Stage,
    Waiting,
)
from streamer.stats import AvSync, Reading, StageStats, Stats

log = logging.getLogger(__name__)

CHANNEL_FRAMES = 2
"""Capacity of every channel. With one frame inside each thread, a pipeline with one stage holds at most
2 x 2 + 3 frames plus those in flight in the engine."""
_PACE_NS, _SLOW_SHARE = 2_000_000_000, 1.2
"""Over so long the outputs' time per frame is averaged, and by so much it must exceed the interval to be blamed."""


class Pipeline:
    """Runs one source through stages into sinks.

    A context manager: leaving the block normally waits for the end, leaving it with an exception cancels. `on_frame`
    is called on the deliver thread after every delivered frame; what it raises stops the pipeline like a failing sink.
    `fps` is the rate that a live stream is held to, by default its own: it decides which frames lagged. Stages need
    different names; ValueError otherwise.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        sinks: Sequence[Sink],
        *,
        on_frame: Callable[[Frame], None] | None = None,
        fps: Fraction | None = None,
    ) -> None:
        names = ["capture", *(stage.name for stage in stages), "deliver"]
        if len(set(names)) < len(names):
            raise ValueError(f"can't run the stages {', '.join(names)}: two of them have the same name")
        self.stats = Stats(names)
        self._source = source
        self._stages = tuple(stages)
        self._sinks = tuple(sinks)
        self._on_frame = on_frame
        self._fps = fps
        head = Overflow.DROP_OLDEST if source.live else Overflow.BLOCK
        self._channels: list[Channel[Frame]] = [
            Channel(f"after {name}", CHANNEL_FRAMES, head if name == "capture" else Overflow.BLOCK, _inherit)
            for name in ["capture", *(stage.name for stage in stages)]
        ]
        self._cause: BaseException | None = None
        self.later_failure: BaseException | None = None
        """The first one behind the cause that `wait` raises; without it, a failing source's outputs were finished."""
        self._lock = threading.Lock()
        self._delivered = threading.Event()
        self._ended = threading.Condition(self._lock)
        self._is_started = False
        self._done: set[str] = set()
        """Names of the threads that have ended."""
        self._threads = [
            threading.Thread(target=self._guard, args=work, name=name, daemon=True)
            for name, work in self._work().items()
        ]

    @property
    def channels(self) -> tuple[Channel[Frame], ...]:
        """The hand-offs from head to tail, for their depths and waits."""
        return tuple(self._channels)

    def reading(self) -> Reading:
        """How it stands now. Any thread, at any time."""
        counts = dict(self._source.counts)
        dropped = {"arrival": counts.pop(DROPPED_ON_ARRIVAL, 0), "capture": self.stats.dropped}
        for sink in self._sinks:
            if SKIPPED in sink.counts:
                dropped[f"sink {sink.name}"] = sink.counts[SKIPPED]
        queues = {channel.name: channel.depth for channel in self._channels}
        if isinstance(self._source, Queueing) and self._source.depth is not None:
            queues = {"received": self._source.depth, **queues}
        queues |= {f"to {sink.name}": sink.depth or 0 for sink in self._sinks if isinstance(sink, Queueing)}
        status: dict[str, str | int] = {}
        for stage in self._stages:
            for event, number in stage.counts.items() if isinstance(stage, Counting) else ():
                counts[event] = counts.get(event, 0) + number
            status |= stage.status if isinstance(stage, Reporting) else {}
        return Reading(
            delivered=self.stats.stages["deliver"].frames_out,
            dropped=dropped,
            lagged=self.stats.lagged,
            events=counts,
            queues=queues,
            av_sync=self.av_sync(),
            status=status,
        )

    def av_sync(self) -> dict[str, AvSync]:
        """How far sound and pictures are apart in each output that has sound. Any thread, also after the end."""
        before = self._source.av_sync if isinstance(self._source, Sounding) else None
        found = {sink.name: sink.av_sync for sink in self._sinks if isinstance(sink, Sounding)}
        return {name: sync.behind(before) for name, sync in found.items() if sync is not None}

    def start(self) -> Pipeline:
        """Starts all threads and returns at once; errors surface in `wait`. RuntimeError if it was started before."""
        if self._is_started:
            raise RuntimeError("a pipeline runs once: make another one")
        self._is_started = True
        try:
            for thread in reversed(self._threads):  # capture last: it waits for deliver in the end
                thread.start()
        except BaseException:  # an interrupt, or no memory: without all its threads it would never end
            self.cancel()
            raise
        return self

    def stop(self) -> None:
        """Ends the stream early but cleanly: frames already captured are delivered, sinks are finished. Any thread.

        A stage that is being opened, and would take long, gives up instead; then everything is cancelled. A sink waits
        no longer for a peer that takes nothing.
        """
        self._source.interrupt()
        for stage in self._stages:
            if isinstance(stage, Interruptible):
                stage.interrupt()
        for sink in self._sinks:
            if isinstance(sink, Waiting):
                sink.hurry()

    def cancel(self) -> None:
        """Ends at once: frames under way are discarded and sinks aborted. Any thread."""
        self.stop()
        for sink in self._sinks:
            if isinstance(sink, Waiting):
                sink.cancel()
        for channel in self._channels:
            channel.cancel()

    def wait(self) -> None:
        """Returns when every thread has ended; re-raises the first cause of a failure with its traceback."""
        self.join()
        if self._cause is not None:
            raise self._cause

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits until every started thread has ended, however it ended; whether they have."""
        # Not Thread.join alone: in CPython 3.11 a KeyboardInterrupt there makes a running thread count as ended.
        with self._ended:
            if not self._ended.wait_for(lambda: self._done >= self._started, timeout_s):
                return False
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        return True

    @property
    def _started(self) -> set[str]:
        return {thread.name for thread in self._threads if thread.ident is not None}

    def __enter__(self) -> Pipeline:
        is_running = self._is_started and not self.join(0)
        return self if is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self.wait()
            except BaseException:  # an interrupt, perhaps; after a failure this is harmless
                self._end()
                raise
        else:
            self._end()

    def _end(self) -> None:
        self.cancel()
        self.join()

    def _work(self) -> dict[str, tuple[object, ...]]:
        work: dict[str, tuple[object, ...]] = {"capture": (self._capture,)}
        for index, stage in enumerate(self._stages):
            work[stage.name] = (self._run_stage, stage, self._channels[index], self._channels[index + 1])
        work["deliver"] = (self._deliver,)
        return work

    def _guard(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Cancelled:
            self.cancel()  # somebody else failed first, the caller cancelled, or a stage gave up while it opened
        except BaseException as error:  # the thread's outermost guard: every cause must reach wait()
            self._fail(error)
            self.cancel()
        finally:
            with self._ended:
                self._done.add(threading.current_thread().name)
                self._ended.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._cause is None:
                self._cause = error
            else:
                self.later_failure = self.later_failure or error
                log.debug("a later failure, after the first cause", exc_info=error)

    def _capture(self) -> None:
        stats, out = self.stats.stages["capture"], self._channels[0]
        try:
            self._source.open()
            while True:
                started = time.monotonic_ns()
                frame = self._source.read()
                if frame is None:
                    break
                stats.service.add(time.monotonic_ns() - started)
                stats.frames_out += 1
                out.put(frame)
                self.stats.dropped = out.dropped
                if self._source.live:
                    self.stats.dropped_on_arrival = self._source.counts.get(DROPPED_ON_ARRIVAL, 0)
        except Cancelled:
            raise
        except Exception as error:
            self._fail(error)  # not cancelled: what was read before is still delivered and finished
        finally:
            out.close()
            # Sinks copy streams and packets out of the open source, so it closes last.
            self._delivered.wait()
            self._source.close()

    def _run_stage(self, stage: Stage, into: Channel[Frame], out: Channel[Frame]) -> None:
        stats = self.stats.stages[stage.name]
        prompt = stage if self._source.live and isinstance(stage, Prompt) else None
        opened = False
        spent_ns = 0
        try:
            while True:
                try:
                    frame = into.get()
                except Ended:
                    break
                except Woken:
                    if prompt is not None:
                        spent_ns += self._hand_on(prompt.ready(), out, stats, prompt)
                    continue
                if not opened:
                    if prompt is not None:
                        prompt.wake = into.wake
                    stage.open(frame.format)
                    opened = True
                stats.frames_in += 1
                stats.service.add(spent_ns + self._hand_on(stage.process(frame), out, stats, prompt))
                spent_ns = 0
            if opened:
                stats.service.add(spent_ns + self._hand_on(stage.flush(), out, stats))
            out.close()
        finally:
            stage.close()
            if isinstance(stage, Counting):
                for event, number in stage.counts.items():
                    self.stats.count(event, number)

    def _hand_on(
        self, frames: Iterable[Frame], out: Channel[Frame], stats: StageStats, prompt: Prompt | None = None
    ) -> int:
        """Puts all frames; gives the nanoseconds that making them took."""
        service_ns = 0
        started = time.monotonic_ns()
        for frame in frames:
            service_ns += time.monotonic_ns() - started
            stats.frames_out += 1
            waited_ns = out.wait_put_ns
            out.put(frame)
            if prompt is not None and out.wait_put_ns > waited_ns:
                prompt.held(out.wait_put_ns - waited_ns)
            started = time.monotonic_ns()
        return service_ns + time.monotonic_ns() - started

    def _deliver(self) -> None:
        stats, into = self.stats.stages["deliver"], self._channels[-1]
        late_ns = 0
        pace = _Pace()
        opened = False
        try:
            for frame in into:
                started = time.monotonic_ns()
                self.stats.lagged += 0 < late_ns <= started - frame.captured_ns
                if not opened:
                    for sink in self._sinks:
                        sink.open(frame.format, self._source.media)
                    if self._source.live:
                        pace.interval_ns = interval_ns(frame.format, self._fps)
                        late_ns = LATE_INTERVALS * pace.interval_ns
                    opened = True
                stats.frames_in += 1
                for sink in self._sinks:
                    sink.write(frame)
                done = time.monotonic_ns()
                stats.service.add(done - started)
                pace.add(done - started, self.stats.dropped)
                stats.frames_out += 1
                self.stats.latency.add(done - frame.captured_ns)
                if self._on_frame is not None:
                    self._on_frame(frame)
            for sink in self._sinks:
                sink.close()
            self._count_events()
        except BaseException:
            for sink in self._sinks:
                sink.abort()
            raise
        finally:
            self._delivered.set()

    def _count_events(self) -> None:
        for event, number in self._source.counts.items():
            if event == DROPPED_ON_ARRIVAL:
                self.stats.dropped_on_arrival = number
            else:
                self.stats.count(event, number)
        for sink in self._sinks:
            for event, number in sink.counts.items():
                if event == SKIPPED:
                    self.stats.skipped += number
                elif number:
                    self.stats.count(event, number)


class _Pace:
    """Says once if the outputs of a live stream are what makes it lose frames. All times in nanoseconds."""

    def __init__(self) -> None:
        self.interval_ns = 0
        """From frame to frame; 0: it isn't live."""
        self._mean = Mean(_PACE_NS)
        self._dropped = 0

    def add(self, service_ns: int, dropped: int) -> None:
        """A frame was delivered in this time; so many were dropped at capture so far."""
        more, self._dropped = dropped - self._dropped, dropped
        if not self.interval_ns:
            return
        self._mean.add(service_ns, time.monotonic_ns())
        taken_ns = self._mean.value or 0.0
        if more and taken_ns > _SLOW_SHARE * self.interval_ns:
            log.warning(
                "frames are lost because the outputs take %.0f ms for each, and one comes every %.0f ms: "
                "choose a faster --preset, another --codec, or a smaller picture",
                taken_ns / 1e6,
                self.interval_ns / 1e6,
            )
            self.interval_ns = 0


def _inherit(dropped: Frame, following: Frame) -> Frame:
    """Dropping a picture must not drop the sound that rode on it, nor the news that temporal state ends there."""
    if not dropped.packets and not dropped.discontinuity:
        return following
    discontinuity = dropped.discontinuity or following.discontinuity
    return replace(following, packets=dropped.packets + following.packets, discontinuity=discontinuity)
