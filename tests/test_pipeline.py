"""Threads and hand-offs: order, flush, back-pressure, failure of every part, interruption, nothing left behind."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar

import pytest

import engines
from onnx_models.cards import load_card
from streamer.channel import Cancelled, Channel
from streamer.enhancer import EnhanceStage
from streamer.errors import SinkError, SourceError
from streamer.frame import Frame, VideoFormat
from streamer.job import _sinks
from streamer.pipeline import CHANNEL_FRAMES, Pipeline, _Pace
from streamer.sinks.codecs import EncoderSettings
from streamer.stage import DROPPED_ON_ARRIVAL, Media
from streamer.stats import StageStats
from tests import faulty
from tests.clips import make_frame

LIMIT_S = 20


class Numbers:
    """A source of `count` frames; may wait before one of them, or fail there."""

    def __init__(self, count: int, *, live: bool = False, fail_at: int | None = None, block_at: int | None = None):
        self.live = live
        self.closed = 0
        self.read_frames = 0
        self.blocked = threading.Event()
        self._count, self._fail_at, self._block_at = count, fail_at, block_at
        self._interrupted = threading.Event()
        self._frame = make_frame()

    format = property(lambda self: self._frame.format)
    media = property(lambda self: Media())
    frames_total = property(lambda self: self._count)
    counts = property(lambda self: {"oddities": 2})
    notes: tuple[str, ...] = ()

    def open(self) -> None: ...

    def read(self) -> Frame | None:
        number = self.read_frames
        if number == self._block_at:
            self.blocked.set()
            assert self._interrupted.wait(LIMIT_S)
        if number == self._fail_at:
            raise SourceError("the source broke")
        if number >= self._count or self._interrupted.is_set():
            return None
        self.read_frames += 1
        return replace(self._frame, pts=number, index=number, packets=(number,), discontinuity=number % 20 == 10)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self.closed += 1


class Delay:
    """A stage that holds back `depth` frames, and may fail in one of its methods."""

    name = "delay"

    def __init__(self, depth: int = 0, fail_in: str = "", fail_at: int = 3):
        self.closed = 0
        self.held: list[Frame] = []
        self._depth, self._fail_in, self._fail_at = depth, fail_in, fail_at

    def open(self, format: VideoFormat) -> VideoFormat:
        self._fail("open")
        return format

    def process(self, frame: Frame) -> Iterator[Frame]:
        if frame.index == self._fail_at:
            self._fail("process")
        self.held.append(frame)
        while len(self.held) > self._depth:
            yield self.held.pop(0)

    def flush(self) -> Iterable[Frame]:
        self._fail("flush")
        return self.held

    def close(self) -> None:
        self.closed += 1
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where == self._fail_in:
            raise ZeroDivisionError(where)


class SlowToOpen(Delay):
    """Opens for ever, unless it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.opening, self._interrupted = threading.Event(), threading.Event()

    def open(self, format: VideoFormat) -> VideoFormat:
        self.opening.set()
        assert self._interrupted.wait(LIMIT_S)
        raise Cancelled

    def interrupt(self) -> None:
        self._interrupted.set()


class Collector:
    """A sink that keeps frames, and may fail or wait."""

    name = "collector"
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = MappingProxyType({})

    def __init__(self, fail_in: str = "", hold: threading.Event | None = None):
        self.frames: list[Frame] = []
        self.ended: list[str] = []
        self.writing = threading.Event()
        self._fail_in, self._hold = fail_in, hold

    def open(self, format: VideoFormat, media: Media) -> None:
        self._fail("open")

    def write(self, frame: Frame) -> None:
        self.writing.set()
        if self._hold is not None:
            assert self._hold.wait(LIMIT_S)
        self._fail("write")
        self.frames.append(frame)

    def close(self) -> None:
        self._fail("close")
        self.ended.append("close")

    def abort(self) -> None:
        self.ended.append("abort")

    def _fail(self, where: str) -> None:
        if where == self._fail_in:
            raise SinkError(f"the sink broke in {where}")


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_stage_that_takes_long_to_open_gives_up(how: str) -> None:
    source, stage, sink = Numbers(50), SlowToOpen(), Collector()
    pipeline = Pipeline(source, [stage], [sink]).start()
    assert stage.opening.wait(LIMIT_S)
    getattr(pipeline, how)()
    pipeline.wait()
    assert (source.closed, stage.closed, sink.frames, sink.ended) == (1, 1, [], ["abort"])


def test_frames_arrive_in_order_and_held_ones_are_flushed() -> None:
    source, stage, sink = Numbers(50), Delay(depth=3), Collector()
    seen: list[int] = []
    with Pipeline(source, [stage], [sink], on_frame=lambda frame: seen.append(frame.index)) as pipeline:
        pass
    assert [frame.index for frame in sink.frames] == seen == list(range(50))
    assert sink.ended == ["close"]
    assert (source.closed, stage.closed) == (1, 1)
    summary = pipeline.stats.summary()
    assert summary["stages"]["capture"]["out"] == summary["stages"]["deliver"]["out"] == 50
    assert summary["events"] == {"oddities": 2}
    assert pipeline.stats.latency.count == 50


def test_without_stages_frames_pass_untouched() -> None:
    source, sink = Numbers(5), Collector()
    with Pipeline(source, [], [sink]):
        pass
    assert all(frame.planes is source._frame.planes for frame in sink.frames)


def test_stages_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="capture, delay, delay, deliver: two of them have the same name"):
        Pipeline(Numbers(1), [Delay(), Delay()], [Collector()])


def test_a_slow_sink_holds_the_source_back() -> None:
    hold = threading.Event()
    source, sink = Numbers(100), Collector(hold=hold)
    pipeline = Pipeline(source, [Delay()], [sink]).start()
    assert sink.writing.wait(LIMIT_S)
    bound = 2 * CHANNEL_FRAMES + 3
    assert source.read_frames <= bound
    hold.set()
    pipeline.wait()
    assert len(sink.frames) == 100
    assert max(channel.high_water for channel in pipeline.channels) <= CHANNEL_FRAMES


def test_a_live_source_drops_at_the_head_only_and_loses_no_packet_or_discontinuity() -> None:
    hold = threading.Event()
    source, sink = Numbers(60, live=True, block_at=60), Collector(hold=hold)
    pipeline = Pipeline(source, [Delay()], [sink]).start()
    assert source.blocked.wait(LIMIT_S)  # all 60 were read although nothing was delivered
    hold.set()
    pipeline.stop()
    pipeline.wait()
    indices = [frame.index for frame in sink.frames]
    assert indices == sorted(indices)
    assert pipeline.stats.dropped == 60 - len(indices) > 0
    assert [packet for frame in sink.frames for packet in frame.packets] == list(range(60))
    assert sink.frames[-1].discontinuity or sink.frames[-2].discontinuity, "frame 50's, which was dropped"


def test_an_interrupt_at_the_end_of_the_block_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = Numbers(60, block_at=5), Collector()
    pipeline, waits = Pipeline(source, [Delay()], [sink]), [0]
    join = pipeline.join

    def interrupted(timeout_s: float | None = None) -> bool:
        waits[0] += 1
        if waits[0] == 1:
            assert source.blocked.wait(LIMIT_S)
            raise KeyboardInterrupt
        return join(timeout_s)

    monkeypatch.setattr(pipeline, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), pipeline:
        pass
    assert join(0)
    assert sink.ended == ["abort"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_interrupt_while_it_starts_ends_what_was_started(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, [0]

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started[0] += 1
        if started[0] > at:
            raise KeyboardInterrupt

    pipeline = Pipeline(Numbers(60), [Delay()], [Collector()])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.start()
    assert pipeline.join(LIMIT_S)
    pipeline.wait()


def test_a_pipeline_runs_once() -> None:
    pipeline = Pipeline(Numbers(3), [], [Collector()])
    with pytest.raises(RuntimeError, match="runs once"), pipeline:
        pipeline.start()
    with pytest.raises(RuntimeError, match="runs once"), pipeline:
        pass
    source = Numbers(60, block_at=5)
    with Pipeline(source, [], [Collector()]).start() as running:
        assert source.blocked.wait(LIMIT_S)
        running.stop()


def test_what_was_dropped_on_arrival_is_lost_like_the_rest() -> None:
    class Bursts(Numbers):
        counts = property(lambda self: {"oddities": 2, DROPPED_ON_ARRIVAL: 3 * self.read_frames})

    with Pipeline(Bursts(5), [], [Collector()]) as pipeline:
        pipeline.stats.dropped = 2
    assert pipeline.stats.lost == 15 + pipeline.stats.dropped
    assert pipeline.stats.events == {"oddities": 2}
    assert pipeline.reading().dropped["arrival"] == pipeline.stats.summary()["dropped_on_arrival"] == 15


def test_outputs_with_the_same_public_name_are_told_apart() -> None:
    sinks = _sinks(
        [f"rtmp://localhost/live/{key}" for key in "abc"], EncoderSettings(), force=False, live=True, segment_s=None
    )
    assert [sink.name for sink in sinks] == [f"rtmp://localhost/live/***{end}" for end in ("", " #2", " #3")]


def test_a_stage_hears_that_what_is_behind_is_slow() -> None:
    """Of every frame that had to wait for room."""

    class Slow(Channel[Frame]):
        def put(self, item: Frame, timeout_s: float | None = None) -> None:
            self.wait_put_ns += 10 * item.index

    class Told:
        wake: Callable[[], None] | None = None
        waits_ns: ClassVar[list[int]] = []

        def ready(self) -> Iterable[Frame]:
            return ()

        def held(self, duration_ns: int) -> None:
            self.waits_ns.append(duration_ns)

    pipeline = Pipeline(Numbers(0), [], [Collector()])
    frames = [replace(make_frame(), index=index) for index in (0, 2, 0, 3)]
    pipeline._hand_on(frames, Slow("slow", 1), StageStats("told"), Told())
    assert Told.waits_ns == [20, 30]


def test_outputs_that_are_too_slow_for_a_live_stream_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    pace = _Pace()
    for dropped in range(5):  # a file: nothing is lost that matters
        pace.add(80_000_000, dropped)
    pace.interval_ns = 40_000_000
    for dropped in (4, 4, 4):
        pace.add(80_000_000, dropped)
    assert not caplog.records
    for dropped in (5, 6, 7):
        pace.add(80_000_000, dropped)
    (record,) = caplog.records
    assert "take 80 ms for each, and one comes every 40 ms" in record.getMessage()
    quick = _Pace()
    quick.interval_ns = 40_000_000
    quick.add(44_000_000, 3)  # what was lost was lost before
    assert len(caplog.records) == 1


@pytest.mark.parametrize("where", ["open", "process", "flush", "close"])
def test_a_failing_stage_is_the_cause_and_sinks_abort(where: str) -> None:
    source, stage, sink = Numbers(30), Delay(fail_in=where), Collector()
    pipeline = Pipeline(source, [stage], [sink]).start()
    with pytest.raises(ZeroDivisionError, match=where) as caught:
        pipeline.wait()
    assert any("_fail" in line for line in traceback.format_tb(caught.tb))
    assert source.closed == 1
    if where != "close":
        assert sink.ended == ["abort"]


@pytest.mark.parametrize("where", ["open", "write", "close"])
def test_a_failing_sink_is_the_cause_and_all_sinks_abort(where: str) -> None:
    broken, other = Collector(fail_in=where), Collector()
    source, stage = Numbers(30), Delay()
    pipeline = Pipeline(source, [stage], [broken, other]).start()
    with pytest.raises(SinkError, match=where):
        pipeline.wait()
    assert "abort" in broken.ended
    assert "abort" in other.ended
    assert (source.closed, stage.closed) == (1, 1)


def test_a_failing_source_ends_the_stream_and_what_was_read_is_finished() -> None:
    source, sink = Numbers(30, fail_at=10), Collector()
    pipeline = Pipeline(source, [Delay(depth=2)], [sink]).start()
    with pytest.raises(SourceError, match="the source broke"):
        pipeline.wait()
    assert [frame.index for frame in sink.frames] == list(range(10))
    assert sink.ended == ["close"]


def test_a_failing_callback_stops_the_pipeline() -> None:
    def fail(frame: Frame) -> None:
        raise LookupError("callback")

    pipeline = Pipeline(Numbers(30), [], [Collector()], on_frame=fail).start()
    with pytest.raises(LookupError):
        pipeline.wait()


@pytest.mark.parametrize(("end", "ended"), [(Pipeline.stop, "close"), (Pipeline.cancel, "abort")])
def test_a_blocked_source_is_interrupted(end: Callable[[Pipeline], None], ended: str) -> None:
    source, sink = Numbers(30, block_at=5), Collector()
    pipeline = Pipeline(source, [Delay()], [sink]).start()
    assert source.blocked.wait(LIMIT_S)
    end(pipeline)
    pipeline.wait()
    assert sink.ended == [ended]
    assert source.closed == 1


def test_leaving_the_block_with_an_error_cancels() -> None:
    source, sink = Numbers(30, block_at=5), Collector()

    def leave_early() -> None:
        with Pipeline(source, [], [sink]):
            assert source.blocked.wait(LIMIT_S)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        leave_early()
    assert sink.ended == ["abort"]


def test_an_empty_source_finishes_sinks_that_were_never_opened() -> None:
    sink = Collector()
    with Pipeline(Numbers(0), [Delay()], [sink]):
        pass
    assert sink.ended == ["close"]


def test_stopping_twice_and_late_is_harmless() -> None:
    pipeline = Pipeline(Numbers(3), [], [Collector()]).start()
    pipeline.wait()
    pipeline.stop()
    pipeline.cancel()
    pipeline.wait()


class OneByOne(Numbers):
    """A live source that gives a frame only when the one before was delivered."""

    def __init__(self, count: int) -> None:
        super().__init__(count, live=True)
        self.delivered = threading.Semaphore(1)

    def read(self) -> Frame | None:
        assert self.delivered.acquire(timeout=LIMIT_S), "a frame waits for the next one"
        return super().read()


@pytest.fixture(params=[*(row.name for row in engines.available_engines() if row.usable), "silent"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every usable engine, and one that doesn't tell when it is done, as TensorRT doesn't."""
    if request.param != "silent":
        return str(request.param)
    monkeypatch.setattr(faulty.FaultyEngine, "tells", False)
    monkeypatch.setattr(faulty.FaultyEngine, "_tell", lambda self, slot: None)
    faulty.install(monkeypatch, lambda number, precision, output: None, on_gpu=False, alone=True)
    return faulty.NAME


@pytest.mark.parametrize("governed", [False, True])
def test_a_live_frame_leaves_before_the_next_one_comes(engine: str, governed: bool) -> None:
    source, sink = OneByOne(5), Collector()
    stage = EnhanceStage(load_card("upscale-x2-nano"), engine=engine, governed=governed)
    with Pipeline(source, [stage], [sink], on_frame=lambda frame: source.delivered.release()) as pipeline:
        pass
    assert [frame.index for frame in sink.frames] == list(range(5))
    assert pipeline.stats.dropped == 0
    enhance = pipeline.stats.stages["enhance"]
    assert enhance.frames_in == enhance.frames_out == 5


def test_a_recorded_frame_may_wait_for_the_next_one() -> None:
    """Nobody asks for promptness there, and waking up costs time."""
    stage = EnhanceStage(load_card("upscale-x2-nano"))
    with Pipeline(Numbers(3), [stage], [Collector()]):
        pass
    assert stage.wake is None
