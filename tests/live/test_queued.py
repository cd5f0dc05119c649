"""A sink behind a queue that must not drop: who waits for whom, for how long, and what ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.errors import SinkError
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.pipeline import Pipeline
from streamer.sinks import make_sink, queued
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.queued import QueuedSink
from streamer.sources import make_source
from streamer.stage import Media
from streamer.sync import SyncMeter
from tests.clips import make_frame, times
from tests.live.peers import LIMIT_S


class Peer:
    """Takes `frames` frames, then nothing until it is killed; with `answers` False it isn't even connected."""

    def __init__(self, frames: int, *, answers: bool = True, can_be_killed: bool = True) -> None:
        self.frames = 0
        self.stuck, self.released = threading.Event(), threading.Event()
        self.is_connected = answers
        self._takes, self._can_be_killed = frames, can_be_killed

    def open(self, format: VideoFormat, media: Media) -> None: ...

    def write(self, frame: Frame) -> None:
        if self.frames == self._takes:
            self.stuck.set()
            assert self.released.wait(3 * LIMIT_S)
            raise SinkError("can't write to the peer: it was stopped")
        self.frames += 1

    def kill(self) -> None:
        if self._can_be_killed:
            self.released.set()

    def close(self) -> None: ...

    def abort(self) -> None: ...


class SlowPeer(Peer):
    """Takes every frame, in its own good time."""

    def __init__(self) -> None:
        super().__init__(1 << 30)

    def write(self, frame: Frame) -> None:
        self.released.wait(0.02)
        super().write(frame)


def queue_to(*peers: Any, **options: Any) -> QueuedSink:
    """A sink whose connections are these, one after the other."""
    waiting = list(peers)
    return QueuedSink("the peer", lambda: waiting.pop(0), Notes("the peer"), SyncMeter(), **options)


@pytest.fixture
def paused() -> Iterator[Peer]:
    """A paused player behind standard output: it can't be killed."""
    peer = Peer(3, can_be_killed=False)
    yield peer
    peer.released.set()


def endless(sinks: list[Any]) -> Pipeline:
    return Pipeline(make_source("test:64x48@25,1000000"), [], sinks)


def write(sink: QueuedSink, frames: int) -> None:
    for number in range(frames):
        sink.write(make_frame(number=number))


def fill(sink: QueuedSink, peer: Peer) -> None:
    """Waits until the next `write` must wait."""
    assert peer.stuck.wait(LIMIT_S)
    while sink.depth < queued.QUEUE_FRAMES:
        os.sched_yield()


def test_the_end_waits_for_a_peer_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_CLOSE_S", 0.01)
    peer = SlowPeer()
    sink = queue_to(peer, blocks=True, reconnects=False)
    sink.open(make_frame().format, Media())
    write(sink, 10)
    sink.close()
    assert (peer.frames, sink.skipped) == (10, 0)


@pytest.mark.parametrize("patient", [True, False])
def test_a_stream_begins_whole(monkeypatch: pytest.MonkeyPatch, patient: bool) -> None:
    """What has come before a peer has answered is sent, unless that takes too long; then fewer frames may wait."""
    monkeypatch.setattr(queued, "_CATCH_UP_S", 3600.0 if patient else 0.0)
    may_answer, may_go_on = threading.Event(), threading.Semaphore(0)
    sent: list[int] = []

    class Late(Peer):
        is_connected = False

        def write(self, frame: Frame) -> None:
            assert may_answer.wait(LIMIT_S)
            self.is_connected = True
            assert may_go_on.acquire(timeout=LIMIT_S)
            sent.append(frame.index)

    sink = queue_to(Late(1))
    sink.open(make_frame().format, Media())
    for number in range(40):
        sink.write(replace(make_frame(number=number), index=number))
    may_answer.set()
    may_go_on.release(3)
    while len(sent) < 3:
        os.sched_yield()
    for number in range(40, 44):
        sink.write(replace(make_frame(number=number), index=number))
    may_go_on.release(100)
    sink.close()
    assert (sent == list(range(44))) is patient
    assert sink.skipped == (0 if patient else 44 - len(sent))
    assert sink._queue.capacity == queued.QUEUE_FRAMES


def test_a_stuck_peer_is_connected_anew_although_nothing_may_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_STUCK_S", 0.05)
    monkeypatch.setattr(queued, "_LOOK_S", 0.01)
    peers = Peer(3), Peer(1 << 30)
    sink = queue_to(*peers, blocks=True)
    sink.open(make_frame().format, Media())
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write, sink, 60)
        try:
            written.result(LIMIT_S)
        finally:
            peers[0].released.set()
    monkeypatch.setattr(queued, "_STUCK_S", LIMIT_S)  # on a busy machine the second peer may be slow
    sink.close()
    assert [peer.frames for peer in peers] == [3, 56]
    assert sink.counts == {"skipped": 1, "sink reconnects": 1}


def test_stop_waits_no_longer_for_a_paused_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paused: Peer) -> None:
    monkeypatch.setattr(queued, "_CLOSE_S", 0.1)
    monkeypatch.setattr(queued, "_KILL_S", 0.1)
    monkeypatch.setattr(queued, "_LOOK_S", 0.01)
    target = tmp_path / "both.mkv"
    sink = queue_to(paused, blocks=True, reconnects=False)
    pipeline = endless([make_sink(str(target), EncoderSettings(preset="ultrafast")), sink]).start()
    fill(sink, paused)
    pipeline.stop()
    assert pipeline.join(LIMIT_S)
    pipeline.wait()
    assert len(times(target)) == pipeline.stats.stages["deliver"].frames_out
    assert sink.skipped
    assert any("left alone" in note for note in sink.notes)


def test_cancel_wakes_who_waits_for_a_paused_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paused: Peer
) -> None:
    monkeypatch.setattr(queued, "_KILL_S", 0.1)
    sink = queue_to(paused, blocks=True, reconnects=False)
    pipeline = endless([make_sink(str(tmp_path / "both.mkv")), sink]).start()
    fill(sink, paused)
    pipeline.cancel()
    assert pipeline.join(LIMIT_S)
    assert not list(tmp_path.iterdir())


def test_cancel_wakes_who_waits_for_the_end(monkeypatch: pytest.MonkeyPatch, paused: Peer) -> None:
    monkeypatch.setattr(queued, "_CLOSE_S", 0.01)
    monkeypatch.setattr(queued, "_KILL_S", 0.01)
    sink = queue_to(paused, blocks=True, reconnects=False)
    pipeline = Pipeline(make_source("test:64x48@25,10"), [], [sink]).start()
    assert paused.stuck.wait(LIMIT_S)
    assert not pipeline.join(0.05), "a paused player is waited for as long as it likes"
    pipeline.cancel()
    assert pipeline.join(LIMIT_S)


def test_a_peer_that_never_answers_holds_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STUCK_S", "_LOOK_S"):
        monkeypatch.setattr(queued, name, 0.01)
    monkeypatch.setattr(queued, "_FIRST_LIMIT", 0)
    sink = queue_to(Peer(0, answers=False), blocks=True)
    sink.open(make_frame().format, Media())
    with pytest.raises(SinkError, match="can't write to the peer"):
        write(sink, 100)
    sink.abort()


def test_what_waits_for_a_peer_that_is_gone_counts_as_skipped() -> None:
    class Gone(Peer):
        def write(self, frame: Frame) -> None:
            self.stuck.wait(LIMIT_S)
            raise SinkError("can't write to the peer: broken pipe")

    peer = Gone(0)
    sink = queue_to(peer, blocks=True, reconnects=False)
    sink.open(make_frame().format, Media())
    write(sink, 6)
    peer.stuck.set()
    with pytest.raises(SinkError, match="broken pipe"):
        sink.close()
    assert sink.skipped == 6


@pytest.mark.parametrize("blocks", [False, True])
def test_a_peer_that_never_answers_is_a_failure(monkeypatch: pytest.MonkeyPatch, blocks: bool) -> None:
    monkeypatch.setattr(queued, "_CLOSE_S", 0.05)
    monkeypatch.setattr(queued, "_STUCK_S", 0.05)
    sink = queue_to(Peer(0, answers=False), blocks=blocks)
    sink.open(make_frame().format, Media())
    write(sink, 1)
    with pytest.raises(SinkError, match="can't write to the peer"):
        sink.close()


def test_nobody_has_to_call_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_CLOSE_S", 0.05)
    sink = queue_to(Peer(0, answers=False), listens=True)
    sink.open(make_frame().format, Media())
    write(sink, 1)
    sink.close()
    assert sink.skipped
