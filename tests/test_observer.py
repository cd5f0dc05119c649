"""What a running pipeline tells: events once a second, a line, Prometheus metrics by a real scrape."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from typer.testing import CliRunner

import streamer
from onnx_models.cards import load_card
from streamer import observer
from streamer.cli import app
from streamer.enhancer import EnhanceStage
from streamer.errors import UsageError
from streamer.frame import Frame
from streamer.job import Progress
from streamer.metrics import MetricsServer, parse_address
from streamer.observer import Observer, line_of
from streamer.pipeline import Pipeline
from streamer.progress import _Bar, _Lines
from streamer.sinks import make_sink
from streamer.sources.live import LiveSource
from streamer.sources.pattern import PatternSource
from streamer.sources.rated import RatedSource
from streamer.sources.receiver import Arrival
from streamer.stats import AvSync, Distribution
from tests.test_pipeline import LIMIT_S, Collector, Delay, Numbers

MS = 1_000_000


def test_live_outputs_have_their_own_figures() -> None:
    outputs = [make_sink("udp://127.0.0.1:9"), make_sink("null:")]
    reading = Pipeline(Numbers(1, live=True), [], outputs).reading()
    assert reading.dropped == {"arrival": 0, "capture": 0, "sink udp://127.0.0.1:9": 0}
    assert reading.queues == {"after capture": 0, "to udp://127.0.0.1:9": 0}
    assert (reading.delivered, reading.status) == (0, {})


def test_what_waits_in_front_of_the_pipeline_is_shown() -> None:
    source = LiveSource("udp://127.0.0.1:9")
    source._inbox.put(Arrival((), None, 0, 0, 0, (), None))
    for outer in (source, RatedSource(source, Fraction(10))):
        assert Pipeline(outer, [], []).reading().queues == {"received": 1, "after capture": 0}
    pattern = RatedSource(PatternSource("test:"), Fraction(10))
    assert Pipeline(pattern, [], []).reading().queues == {"after capture": 0}


class Talkie(Collector):
    """A sink whose sound is behind its pictures."""

    av_sync = AvSync(offset_ms=-62.5, skew_ms=-500.0, worst_ms=-70.0)


class Silent(Collector):
    """A sink that could have sound, and has none."""

    name = "silent"
    av_sync = None


def test_what_the_source_does_to_sound_counts_in_every_output() -> None:
    source = Old(1)
    source.av_sync = AvSync(offset_ms=100.0, skew_ms=7.0, worst_ms=-120.0)
    assert Pipeline(source, [], [Talkie(), Silent()]).av_sync() == {"collector": AvSync(37.5, -500.0, -120.0)}


class Oddity(Delay):
    counts = property(lambda self: {"oddities": 3})

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_what_several_count_under_one_name_is_added_up() -> None:
    pipeline = Pipeline(Numbers(1), [Oddity("one"), Oddity("two")], [Collector()])
    assert pipeline.reading().events == {"oddities": 8}
    with pipeline:
        pass
    assert pipeline.stats.summary()["events"] == {"oddities": 8}


class Old(Numbers):
    """Live frames; those from 5 on were captured long before they come."""

    av_sync: AvSync | None = None

    def __init__(self, count: int) -> None:
        super().__init__(count, live=True, block_at=count)
        self.delivered = threading.Semaphore(1)

    def read(self) -> Frame | None:
        assert self.delivered.acquire(timeout=LIMIT_S)
        frame = super().read()
        captured_ns = 1 if frame is not None and frame.index >= 5 else sys.maxsize
        return None if frame is None else replace(frame, captured_ns=captured_ns)


@contextmanager
def running(stages: list[Any], count: int = 8) -> Iterator[Pipeline]:
    """A pipeline that has delivered its frames and waits for more."""
    source = Old(count)
    sinks = [Collector(), Talkie(), Silent()]
    pipeline = Pipeline(source, stages, sinks, on_frame=lambda frame: source.delivered.release()).start()
    assert source.blocked.wait(LIMIT_S)
    try:
        yield pipeline
    finally:
        pipeline.stop()
        pipeline.wait()


def test_late_frames_are_counted_where_compute_ends() -> None:
    with running([Delay()]) as pipeline:
        assert pipeline.stats.lagged == 3
        assert pipeline.reading().lagged == 3
    with Pipeline(Numbers(5), [], [Collector()]) as recorded:
        pass
    assert recorded.stats.lagged == 0, "a recording has no deadlines"


def test_an_event_says_what_happened_since_the_last_one() -> None:
    stage = EnhanceStage(load_card("upscale-x2-nano"), governed=True)
    with running([stage]) as pipeline:
        watch = Observer(pipeline, lambda event: None)
        first = watch.event(2_000 * MS)
        second = watch.event(3_000 * MS)
    assert first["event"] == "stats"
    assert (first["frames"], first["fps"]) == (8, 4.0)
    assert first["lagged"] == 3
    assert first["dropped"] == {"arrival": 0, "capture": 0}
    assert first["events"] == {"oddities": 2}
    assert first["queues"] == {"after capture": 0, "after enhance": 0}
    assert first["status"]["model"] == "upscale-x2-nano"
    assert first["status"]["level"] == 0
    assert first["status"]["doing"] == "upscale-x2-nano"
    assert (second["frames"], second["fps"], second["latency_ms"]) == (8, 0.0, {"p50": 0.0, "p95": 0.0})
    assert first["av_offset_ms"] == {"collector": -62.5}
    assert first["av_skew_ms"] == {"collector": -500.0}
    assert line_of(first).endswith(", sound 62 ms behind the picture in collector")
    assert json.loads(json.dumps(first)) == first
    assert line_of(first).startswith("4.0 frames/s, latency ")
    assert f"0 dropped, 3 late, upscale-x2-nano on {stage.engine_name}" in line_of(first)


def test_events_come_on_a_grid_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "EVERY_NS", 50 * MS)
    events: list[dict[str, Any]] = []
    twice = threading.Event()

    def on_stats(event: dict[str, Any]) -> None:
        events.append(event)
        if len(events) == 2:
            twice.set()

    with running([Delay()]) as pipeline, Observer(pipeline, on_stats):
        assert twice.wait(LIMIT_S)
    assert 0.05 <= events[0]["time_s"] < events[1]["time_s"]


def test_a_listener_that_fails_doesnt_take_the_stream_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observer, "EVERY_NS", 10 * MS)
    failed = threading.Event()

    def on_stats(event: dict[str, Any]) -> None:
        failed.set()
        raise BrokenPipeError("nobody reads")

    with running([Delay()]) as pipeline, Observer(pipeline, on_stats):
        assert failed.wait(LIMIT_S)
    assert caplog.text.count("the figures of the stream end here: nobody reads") == 1


def test_a_live_job_prints_events_and_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "EVERY_NS", 100 * MS)
    outcome = CliRunner().invoke(
        app, ["enhance", "test:64x48@25", "null:", "--live", "--json", "--duration", "0.6", "--model", "none"]
    )
    assert outcome.exit_code == 0, outcome.output
    *events, summary = (json.loads(line) for line in outcome.stdout.splitlines())
    assert {event["event"] for event in events} == {"stats"}
    assert events[-1]["frames"] > 0
    assert summary["frames"] + summary["stats"]["dropped"] == 15
    assert "event" not in summary


def test_distributions_subtract() -> None:
    found = Distribution()
    for value in (1, 2, 3):
        found.add(value * MS)
    earlier = found.copy()
    for value in (100, 200):
        found.add(value * MS)
    recent = found.since(earlier)
    assert (earlier.count, recent.count, found.count) == (3, 2, 5)
    assert recent.total_ns == 300 * MS
    assert recent.percentile_ms(50) == pytest.approx(100, rel=0.02)
    assert recent.percentile_ms(95) == pytest.approx(200, rel=0.04)
    assert found.since(found.copy()).percentile_ms(95) == 0
    assert [found.up_to(limit * MS) for limit in (0, 2, 10, 150, 1000)] == [0, 2, 3, 4, 5]


def scraped(port: int) -> dict[str, float]:
    """Every sample of the page, by its name and labels as they are written."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_metrics_by_a_scrape() -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` isn't installed")
    stage = EnhanceStage(load_card("upscale-x2-nano"), governed=True)
    with running([stage]) as pipeline, MetricsServer("127.0.0.1:0") as server:
        assert scraped(server.port) == {}
        server.watch("cam", pipeline)
        found = scraped(server.port)
        server.watch("other", pipeline)
        both = scraped(server.port)
        server.forget("other")
        assert scraped(server.port).keys() == found.keys()
    assert found['streamer_frames_total{stream="cam"}'] == 8
    assert found['streamer_lagged_frames_total{stream="cam"}'] == 3
    assert found['streamer_dropped_frames_total{cause="capture",stream="cam"}'] == 0
    assert found['streamer_dropped_frames_total{cause="arrival",stream="cam"}'] == 0
    assert found['streamer_reconnects_total{stream="cam"}'] == 0
    assert found['streamer_events_total{event="oddities",stream="cam"}'] == 2
    assert found['streamer_governor_level{stream="cam"}'] == 0
    assert found['streamer_av_offset_seconds{output="collector",stream="cam"}'] == -0.0625
    assert found['streamer_av_skew_seconds{output="collector",stream="cam"}'] == -0.5
    assert found['streamer_queue_frames{queue="after capture",stream="cam"}'] == 0
    assert found['streamer_service_seconds_bucket{le="+Inf",stage="enhance",stream="cam"}'] >= 8
    assert found['streamer_service_seconds_sum{stage="enhance",stream="cam"}'] > 0
    assert found['streamer_latency_seconds_count{stream="cam"}'] == 8
    assert sum(name.startswith("streamer_engine_info{") and 'engine="' in name for name in found) == 1
    assert both['streamer_frames_total{stream="other"}'] == 8


def test_metrics_of_a_job_and_what_can_go_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` isn't installed")
    with pytest.raises(UsageError, match=r"can't serve metrics on xxx.*; choose another port, or host"):
        streamer.enhance("test:64x48@25", "null:", duration=0.2, model="none", metrics="x" * 70 + ":9100")
    with MetricsServer("127.0.0.1:0") as server, pytest.raises(UsageError, match="choose another port"):
        streamer.enhance("test:64x48@25", "null:", duration=0.2, model="none", metrics=f"127.0.0.1:{server.port}")
    assert f"metrics are at http://127.0.0.1:{server.port}/metrics" in caplog.messages
    summary = streamer.enhance("test:64x48@25", "null:", duration=0.2, model="none", metrics="127.0.0.1:0")
    assert summary.frames == 5
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"pip install 'streamer-enhancer\[metrics\]'"):
        streamer.enhance("test:64x48@25", "null:", duration=0.2, model="none", metrics="127.0.0.1:0")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9100") == ("127.0.0.1", 9100)
    assert parse_address("[::1]:0") == ("::1", 0)
    for wrong in ("9100", ":9100", "host:", "host:port", "host:65536", "host:-1"):
        with pytest.raises(UsageError, match="write HOST:PORT"):
            parse_address(wrong)


class Bar:
    """What of rich's bar is used."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def add_task(self, description: str, **fields: Any) -> int:
        self.fields |= fields
        return 1

    def update(self, task: int, **fields: Any) -> None:
        self.fields |= fields


EVENT: dict[str, Any] = {
    "time_s": 6.0,
    "frames": 150,
    "fps": 25.0,
    "latency_ms": {"p50": 30.2, "p95": 41.7},
    "dropped": {"capture": 2, "sink udp": 1},
    "lagged": 4,
    "av_offset_ms": {"out.mkv": 12.5},
    "status": {"model": "big", "doing": "small", "engine": "openvino", "level": 1},
}
LINE = "25.0 frames/s, latency 30/42 ms (p50/p95), 3 dropped, 4 late, small on openvino, governor level 1"


def test_the_line_of_a_live_stream(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(frames=100, total=None, time_s=4.0, elapsed_s=5.5, start_s=0.5)
    bar = Bar()
    display = _Bar(bar)
    display(progress)
    assert bar.fields["text"] == "19.8 frames/s  0.79x"
    display.stats(EVENT)
    display(progress)
    assert (bar.fields["text"], bar.fields["completed"]) == (LINE, 100)
    lines = _Lines()
    lines.stats({**EVENT, "time_s": 1.0})
    lines(progress)
    lines.stats(EVENT)
    assert capsys.readouterr().err == f"frame 150, {LINE}\n"
