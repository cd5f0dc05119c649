"""Counters and distributions of a running pipeline, cheap enough to be always on."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Distribution:
    """Percentiles of positive durations in constant memory.

    Counts fall into buckets whose bounds grow by 4 %, so a percentile is exact within 2 % (the geometric middle of
    its bucket). One thread adds, any thread reads.
    """

    _GROWTH = math.log(1.04)

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0
        self._buckets: dict[int, int] = {}

    def add(self, duration_ns: int) -> None:
        bucket = int(math.log(max(duration_ns, 1)) / self._GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total_ns += duration_ns
        self.max_ns = max(self.max_ns, duration_ns)

    @property
    def mean_ms(self) -> float:
        return self.total_ns / self.count / 1e6 if self.count else 0.0

    def copy(self) -> Distribution:
        """As it is now."""
        return self.since(Distribution())

    def since(self, earlier: Distribution) -> Distribution:
        """Of the samples that were added after `earlier` was copied from this; its longest is known to 4 % only."""
        found = Distribution()
        for bucket, number in sorted(self._buckets.copy().items()):
            more = number - earlier._buckets.get(bucket, 0)
            if more:
                found._buckets[bucket] = more
                found.count += more
                found.max_ns = min(self.max_ns, int(math.exp((bucket + 1) * self._GROWTH)))
        found.total_ns = self.total_ns - earlier.total_ns
        return found

    def up_to(self, limit_ns: int) -> int:
        """How many samples were no longer than `limit_ns`, of which the last bucket is counted by its middle."""
        return sum(number for bucket, number in self._buckets.copy().items() if self._middle_ns(bucket) <= limit_ns)

    def percentile_ms(self, percent: float) -> float:
        """The duration in milliseconds that `percent` of the samples don't exceed; 0 without samples."""
        buckets = sorted(self._buckets.copy().items())
        rank = percent / 100 * sum(number for _, number in buckets)
        seen = 0
        for bucket, number in buckets:
            seen += number
            if seen >= rank:
                return min(self._middle_ns(bucket), self.max_ns) / 1e6
        return 0.0

    def _middle_ns(self, bucket: int) -> float:
        return math.exp((bucket + 0.5) * self._GROWTH)


@dataclass
class StageStats:
    """One thread's work: frames in and out, and where its time went."""

    name: str
    frames_in: int = 0
    frames_out: int = 0
    service: Distribution = field(default_factory=Distribution)

    def summary(self) -> dict[str, Any]:
        return {
            "in": self.frames_in,
            "out": self.frames_out,
            "service_ms_mean": round(self.service.mean_ms, 3),
            "service_ms_p95": round(self.service.percentile_ms(95), 3),
        }


@dataclass(frozen=True, slots=True)
class AvSync:
    """How far sound and pictures are apart in one output, in milliseconds.

    Positive means that the sound is ahead, as in ITU-R BT.1359. Of several streams of sound, the worst one counts. What
    the source says wrongly of itself doesn't show, such as RTSP's times before its sender's first report.
    """

    offset_ms: float
    """In presentation: how much earlier than its picture sound is played, compared with the source. It is the
    difference between what the output's time stamps add to the source's times, for pictures and for sound; the median
    of the last packets."""
    skew_ms: float
    """In delivery: the source's time of the last sound that was sent, minus that of the last picture. A player has to
    hold pictures back for so long, if it is negative."""
    worst_ms: float
    """The `offset_ms` furthest from zero so far."""

    def behind(self, before: AvSync | None) -> AvSync:
        """Of an output, together with what its source had done before."""
        if before is None:
            return self
        offset_ms = round(self.offset_ms + before.offset_ms, 1)
        worst_ms = max(offset_ms, self.worst_ms, before.worst_ms, key=abs)
        return AvSync(offset_ms, self.skew_ms, worst_ms)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a running pipeline has done so far, and how it stands now: plain values, taken at one moment."""

    delivered: int
    """Frames that all sinks got."""
    dropped: Mapping[str, int]
    """Frames by where they were lost: "arrival", "capture", and "sink NAME" for each live output."""
    lagged: int
    """Frames that came late to the outputs."""
    events: Mapping[str, int]
    """What the source and stages count by name, such as "reconnects"."""
    queues: Mapping[str, int]
    """Frames that wait now: received but not yet read, in each channel, and before each live output."""
    av_sync: Mapping[str, AvSync]
    """Of each output that has sound."""
    status: Mapping[str, str | int]
    """Of the enhancement: model, engine, precision, and the governor's level and what that does; empty without."""


class Stats:
    """All figures of one pipeline run; written by its threads, readable by any.

    `dropped`: at capture, because the head channel was full. `dropped_on_arrival`: before that, of a live input's
    pictures that came faster than they were taken. `lagged`: on live streams, frames that came to the outputs three
    frame intervals or more after their capture (the stages, or the outputs before, missed their slot). `skipped`:
    frames that a live output didn't take in time (a sink missed its slot). `latency` runs from capture to the last
    sink's return. `events` are named counts of everything unusual: corrupt packets, repaired timestamps, conversions.
    """

    def __init__(self, stages: list[str]) -> None:
        self.stages = {name: StageStats(name) for name in stages}
        self.latency = Distribution()
        self.dropped = 0
        self.dropped_on_arrival = 0
        self.lagged = 0
        self.skipped = 0
        self.events: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def lost(self) -> int:
        """Frames that came and were not enhanced, wherever they were dropped."""
        return self.dropped + self.dropped_on_arrival

    def count(self, event: str, number: int = 1) -> None:
        """Adds to the named count of `event`; any thread."""
        with self._lock:
            self.events[event] = self.events.get(event, 0) + number

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, times in milliseconds."""
        return {
            "stages": {name: stage.summary() for name, stage in self.stages.items()},
            "dropped": self.dropped,
            "dropped_on_arrival": self.dropped_on_arrival,
            "lagged": self.lagged,
            "skipped": self.skipped,
            "latency_ms": {f"p{p}": round(self.latency.percentile_ms(p), 1) for p in (50, 95, 99)},
            "events": dict(self.events),
        }
