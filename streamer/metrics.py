"""Prometheus metrics of running pipelines, over HTTP. Needs the extra `metrics`."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from streamer.errors import UsageError, reason_of
from streamer.pipeline import Pipeline
from streamer.stage import RECONNECTS
from streamer.stats import Distribution

log = logging.getLogger(__name__)

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Of the histograms' buckets."""


def parse_address(address: str) -> tuple[str, int]:
    """HOST and PORT of `HOST:PORT`; `[::1]:9100` for IPv6, port 0 for any. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--metrics {address} is not an address: write HOST:PORT, such as 127.0.0.1:9100")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MetricsServer:
    """Answers `http://HOST:PORT/metrics` while the block lasts; everything is read when it is asked for.

    Raises UsageError, when made for what is no address, and on entering without prometheus-client or where the address
    can't be used. `watch` and `forget` may be called from any thread.
    """

    def __init__(self, address: str) -> None:
        self._address, self._host_port = address, parse_address(address)
        self._pipelines: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The one that is listened on."""
        return int(self._server.server_port)

    def watch(self, stream: str, pipeline: Pipeline) -> None:
        """Adds a pipeline; `stream` becomes the label of that name."""
        with self._lock:
            self._pipelines[stream] = pipeline

    def forget(self, stream: str) -> None:
        with self._lock:
            self._pipelines.pop(stream, None)

    def __enter__(self) -> MetricsServer:
        prometheus = _prometheus()
        registry = prometheus.CollectorRegistry()
        registry.register(_Collector(self))
        host, port = self._host_port
        try:
            self._server, self._thread = prometheus.start_http_server(port, host, registry)
        except (OSError, UnicodeError) as error:  # the latter for host names that can't be any
            raise UsageError(
                f"can't serve metrics on {self._address}: {reason_of(error)}; choose another port, or host"
            ) from error
        # Nobody else knows which port was free.
        level = logging.INFO if port else logging.WARNING
        log.log(level, "metrics are at http://%s:%d/metrics", self._address.rpartition(":")[0], self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def pipelines(self) -> dict[str, Pipeline]:
        """Those that are watched now, by stream."""
        with self._lock:
            return dict(self._pipelines)


class _Collector:
    """Makes all families anew for every scrape."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._core = importlib.import_module("prometheus_client.core")

    def describe(self) -> list[Any]:
        """Nothing beforehand: the registry would otherwise collect to find out."""
        return []

    def collect(self) -> Iterator[Any]:
        families = self._families()
        for stream, pipeline in self._server.pipelines().items():
            self._add_reading(families, stream, pipeline)
            self._add_distributions(families, stream, pipeline)
        yield from families.values()

    def _families(self) -> dict[str, Any]:
        core, output = self._core, ("stream", "output")
        made = [
            core.CounterMetricFamily("streamer_frames", "Frames delivered to all outputs", labels=["stream"]),
            core.CounterMetricFamily("streamer_dropped_frames", "Frames lost, by where", labels=["stream", "cause"]),
            core.CounterMetricFamily("streamer_lagged_frames", "Frames late out of the stages", labels=["stream"]),
            core.CounterMetricFamily("streamer_reconnects", "Inputs lost and found again", labels=["stream"]),
            core.CounterMetricFamily("streamer_events", "Everything else counted", labels=["stream", "event"]),
            core.GaugeMetricFamily("streamer_governor_level", "0 is the chosen model", labels=["stream"]),
            core.GaugeMetricFamily("streamer_queue_frames", "Frames waiting now", labels=["stream", "queue"]),
            core.GaugeMetricFamily("streamer_av_offset_seconds", "Sound ahead of its picture", labels=output),
            core.GaugeMetricFamily("streamer_av_skew_seconds", "Likewise, in delivery", labels=output),
            core.InfoMetricFamily("streamer_engine", "What enhances now", labels=["stream"]),
            core.HistogramMetricFamily("streamer_service_seconds", "Work per frame", labels=["stream", "stage"]),
            core.HistogramMetricFamily("streamer_latency_seconds", "From capture to delivery", labels=["stream"]),
        ]
        return {family.name: family for family in made}

    def _add_reading(self, families: dict[str, Any], stream: str, pipeline: Pipeline) -> None:
        reading = pipeline.reading()
        events = dict(reading.events)
        families["streamer_frames"].add_metric([stream], reading.delivered)
        families["streamer_lagged_frames"].add_metric([stream], reading.lagged)
        families["streamer_reconnects"].add_metric([stream], events.pop(RECONNECTS, 0))
        families["streamer_governor_level"].add_metric([stream], reading.status.get("level", 0))
        for cause, number in reading.dropped.items():
            families["streamer_dropped_frames"].add_metric([stream, cause], number)
        for event, number in events.items():
            families["streamer_events"].add_metric([stream, event], number)
        for queue, depth in reading.queues.items():
            families["streamer_queue_frames"].add_metric([stream, queue], depth)
        for output, sync in reading.av_sync.items():
            families["streamer_av_offset_seconds"].add_metric([stream, output], sync.offset_ms / 1000)
            families["streamer_av_skew_seconds"].add_metric([stream, output], sync.skew_ms / 1000)
        status = {name: str(value) for name, value in reading.status.items() if name != "level"}
        families["streamer_engine"].add_metric([stream], status)

    def _add_distributions(self, families: dict[str, Any], stream: str, pipeline: Pipeline) -> None:
        stats = pipeline.stats
        for name, stage in stats.stages.items():
            if name != "capture":  # its time is spent waiting for the source
                families["streamer_service_seconds"].add_metric([stream, name], *_histogram(stage.service))
        families["streamer_latency_seconds"].add_metric([stream], *_histogram(stats.latency))


def _histogram(found: Distribution) -> tuple[list[tuple[str, int]], float]:
    """Cumulative buckets and the sum, in seconds."""
    frozen = found.copy()  # its thread goes on
    buckets = [(str(bound_s), frozen.up_to(int(bound_s * 1e9))) for bound_s in BOUNDS_S]
    return [*buckets, ("+Inf", frozen.count)], frozen.total_ns / 1e9


def _prometheus() -> Any:
    try:
        return importlib.import_module("prometheus_client")
    except ImportError as error:
        raise UsageError(
            f"--metrics needs prometheus-client ({error}); run: pip install 'streamer-enhancer[metrics]'"
        ) from error
