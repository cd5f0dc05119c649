"""What a live stream does, once a second: events for programs, and a line for people."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from streamer.pipeline import Pipeline
from streamer.stats import Distribution

log = logging.getLogger(__name__)

EVERY_NS = 1_000_000_000
NOTABLE_MS = 40
"""So far sound may be ahead of its picture by EBU R37 (and 60 ms behind it)."""

OnStats = Callable[[dict[str, Any]], None]


class Observer:
    """Tells `on_stats` once a second, on an absolute grid and on a thread of its own, how a pipeline does.

    A context manager around the pipeline's run. Events are plain values, fit for JSON:

        event          "stats"
        time_s         since the beginning
        frames         delivered so far
        fps            delivered per second, since the last event
        latency_ms     p50, p95: from capture to delivery, since the last event
        dropped        lost so far: arrival (before decoded pictures were taken), capture (no room before the
                       enhancement), and "sink NAME" for what each live output skipped
        lagged         frames so far that came to the outputs three frame intervals or more after their capture
        events         everything else that is counted: reconnects, stand-in frames, governor steps ...
        queues         frames that wait now: received but not yet read, by channel, and before each live output
        av_offset_ms   by output with sound: how much the sound is ahead of its picture, compared with the source
        av_skew_ms     likewise, in delivery: see streamer.stats.AvSync
        status         model, engine, precision; with a governor level (0: the chosen model) and doing (what it does)
    """

    def __init__(self, pipeline: Pipeline, on_stats: OnStats) -> None:
        self._pipeline = pipeline
        self._on_stats = on_stats
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observe", daemon=True)
        self._started_ns = self._told_ns = 0
        self._frames = 0
        self._latency = Distribution()

    def __enter__(self) -> Observer:
        self._started_ns = self._told_ns = time.monotonic_ns()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def event(self, now_ns: int) -> dict[str, Any]:
        """What happened since the last call, `now_ns` being the monotonic clock's time."""
        reading = self._pipeline.reading()
        recent, self._latency = self._pipeline.stats.latency.since(self._latency), self._pipeline.stats.latency.copy()
        frames, self._frames = reading.delivered - self._frames, reading.delivered
        elapsed_s, self._told_ns = (now_ns - self._told_ns) / 1e9, now_ns
        return {
            "event": "stats",
            "time_s": round((now_ns - self._started_ns) / 1e9, 2),
            "frames": reading.delivered,
            "fps": round(frames / elapsed_s, 2) if elapsed_s > 0 else 0.0,
            "latency_ms": {f"p{p}": round(recent.percentile_ms(p), 1) for p in (50, 95)},
            "dropped": dict(reading.dropped),
            "lagged": reading.lagged,
            "events": dict(reading.events),
            "queues": dict(reading.queues),
            "av_offset_ms": {name: sync.offset_ms for name, sync in reading.av_sync.items()},
            "av_skew_ms": {name: sync.skew_ms for name, sync in reading.av_sync.items()},
            "status": dict(reading.status),
        }

    def _run(self) -> None:
        due_ns = self._started_ns + EVERY_NS
        while not self._ended.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
            now_ns = time.monotonic_ns()
            try:
                self._on_stats(self.event(now_ns))
            except Exception as error:  # the thread's outermost guard: the stream is worth more than its figures
                log.warning("the figures of the stream end here: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
                return
            due_ns += EVERY_NS * (1 + max(0, now_ns - due_ns) // EVERY_NS)


def line_of(event: dict[str, Any]) -> str:
    """An event on one line."""
    status, latency = event["status"], event["latency_ms"]
    lost = sum(event["dropped"].values())
    doing = status.get("doing", status.get("model", "no model"))
    on = f" on {status['engine']}" if "engine" in status else ""
    level = f", governor level {status['level']}" if status.get("level") else ""
    return (
        f"{event['fps']:.1f} frames/s, latency {latency['p50']:.0f}/{latency['p95']:.0f} ms (p50/p95), {lost} dropped, "
        f"{event['lagged']} late, {doing}{on}{level}{offset_note(event['av_offset_ms'])}"
    )


def offset_note(offsets_ms: dict[str, float]) -> str:
    """The output whose sound is furthest from its pictures, if anybody would notice."""
    worst = max(offsets_ms, key=lambda name: abs(offsets_ms[name]), default=None)
    if worst is None or abs(offsets_ms[worst]) < NOTABLE_MS:
        return ""
    where = "ahead of" if offsets_ms[worst] > 0 else "behind"
    return f", sound {abs(offsets_ms[worst]):.0f} ms {where} the picture in {worst}"
