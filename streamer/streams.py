"""Several streams at once in one process: each a job of its own, none of which can take another with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from streamer.config import Stream
from streamer.job import Progress, Summary, enhance
from streamer.metrics import MetricsServer
from streamer.pipeline import Pipeline
from streamer.progress import ShowProgress

log = logging.getLogger(__name__)

_CANCEL_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stream ended: with a `summary`, an `error`, or, stopped before its first picture, with neither."""

    name: str
    summary: Summary | None = None
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        if self.error is not None:
            return {"error": str(self.error)}
        return {} if self.summary is None else self.summary.as_dict()


class StreamRunner:
    """Runs each stream on a thread of its own; those that open the same network on the same engine share it.

    `on_progress` is called with a stream's name, its progress and its statistics after each of its frames, on that
    stream's deliver thread; `on_stats` once a second with a live stream's name and an event (see
    `streamer.observer.Observer`), on a thread of its own; `on_end` when a stream has ended, on its own thread.
    `metrics` is a HOST:PORT where Prometheus finds the figures of all streams.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        on_progress: ShowProgress | None = None,
        on_stats: Callable[[str, dict[str, Any]], None] | None = None,
        on_end: Callable[[Outcome], None] | None = None,
        metrics: str | None = None,
    ) -> None:
        self._on_end = on_end
        self._server = None if metrics is None else MetricsServer(metrics)
        self._changed = threading.Condition()
        self._outcomes: dict[str, Outcome] = {}
        self._runs = [_Run(stream, on_progress, on_stats, self._started, self._ended) for stream in streams]

    def run(self) -> tuple[Outcome, ...]:
        """Returns when all streams have ended, however they ended.

        A first KeyboardInterrupt stops all streams, finishes their outputs and is raised with the attribute `outcomes`;
        a second one cancels them. Raises UsageError if metrics can't be served.
        """
        with self._server or nullcontext():
            return self._run()

    def _run(self) -> tuple[Outcome, ...]:
        interrupt = None
        try:
            try:
                for run in self._runs:
                    run.start()
                self._wait(None)
            except KeyboardInterrupt as error:
                interrupt = error
                for run in self._runs:
                    run.stop()
                self._wait(None)
        except BaseException:
            for run in self._runs:
                run.cancel()
            self._wait(_CANCEL_S)
            raise
        outcomes = tuple(self._outcomes[run.stream.name] for run in self._runs if run.stream.name in self._outcomes)
        if interrupt is not None:
            interrupt.outcomes = outcomes  # type: ignore[attr-defined]  # the caller may want to report what is there
            raise interrupt
        return outcomes

    def _wait(self, timeout_s: float | None) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: all(run.stream.name in self._outcomes for run in self._runs if run.started), timeout_s
            )

    def _started(self, name: str, pipeline: Pipeline) -> None:
        if self._server is not None:
            self._server.watch(name, pipeline)

    def _ended(self, outcome: Outcome) -> None:
        try:
            if self._server is not None:
                self._server.forget(outcome.name)
            if self._on_end is not None:
                self._on_end(outcome)
        finally:  # who waits for all streams must not wait for one that can't tell its end
            with self._changed:
                self._outcomes[outcome.name] = outcome
                self._changed.notify_all()


class _Run:
    """One stream's thread."""

    def __init__(
        self,
        stream: Stream,
        on_progress: ShowProgress | None,
        on_stats: Callable[[str, dict[str, Any]], None] | None,
        on_start: Callable[[str, Pipeline], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.stream = stream
        self.started = False
        self._on_progress = on_progress
        self._on_stats = None if on_stats is None else partial(on_stats, stream.name)
        self._on_start = on_start
        self._on_end = on_end
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._stopped = False
        self._frames = 0
        self._thread = threading.Thread(target=self._run, name=f"stream {stream.name}", daemon=True)

    def start(self) -> None:
        self.started = True
        self._thread.start()

    def stop(self) -> None:
        """Ends it cleanly, also when it is only about to start. Any thread."""
        with self._lock:
            self._stopped = True
            if self._pipeline is not None:
                self._pipeline.stop()

    def cancel(self) -> None:
        self.stop()
        if self._pipeline is not None:
            self._pipeline.cancel()

    def _run(self) -> None:
        stream = self.stream
        outcome = Outcome(stream.name)
        try:
            summary = enhance(
                stream.input,
                stream.outputs,
                **stream.settings,
                on_progress=self._progressed,
                on_stats=self._on_stats,
                on_start=self._starting,
            )
            outcome = Outcome(stream.name, replace(summary, interrupted=self._stopped))
        except Exception as error:  # the thread's outermost guard: it must reach the others' report
            log.debug("stream %s failed", stream.name, exc_info=error)
            if self._frames or not self._stopped:
                outcome = Outcome(stream.name, error=error)
        finally:
            self._on_end(outcome)

    def _starting(self, pipeline: Pipeline) -> None:
        with self._lock:
            self._pipeline = pipeline
            self._on_start(self.stream.name, pipeline)
            if self._stopped:
                pipeline.stop()

    def _progressed(self, progress: Progress) -> None:
        self._frames = progress.frames
        if self._on_progress is not None and self._pipeline is not None:
            self._on_progress(self.stream.name, progress, self._pipeline.stats)
