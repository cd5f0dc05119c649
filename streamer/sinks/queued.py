"""A live sink on a thread of its own: nobody waits for it, and it comes back by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from streamer.backoff import Backoff
from streamer.channel import Cancelled, Channel, Ended, Overflow
from streamer.detached import detached_packet, detached_streams
from streamer.errors import SinkError
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.sinks.stream import StreamSink
from streamer.stage import SKIPPED, Media
from streamer.stats import AvSync
from streamer.sync import SyncMeter

log = logging.getLogger(__name__)

QUEUE_FRAMES = 8
"""Frames that may wait for one live sink; at 30 Hz they are at most 0.27 s old. A 1080p frame takes 3 MB."""
FIRST_FRAMES, FIRST_BYTES = 50, 128 << 20
"""Until the first connection is made more frames may wait (but not more bytes), so that a stream begins whole."""
_CATCH_UP_S = 5.0
"""So long after it they may still be sent, by a peer that is faster than the stream."""

_FIRST_LIMIT = 2
_STUCK_S = 15.0
"""A peer that takes nothing for so long is connected anew, where that can be done."""
_LOOK_S = 1.0
"""While `write` waits it looks so often whether the peer is stuck."""
_CLOSE_S = 3.0
"""So long a peer may take nothing in the end, where frames may be dropped or the stream ends early."""
_ABORT_S, _KILL_S = 0.5, 2.0
_MAX_PACKETS = 500


class QueuedSink:
    """Feeds sinks that `make` gives, one after the other, from a bounded queue on a thread of its own.

    `sync` is the meter of them all.

    `write` returns at once: when the queue is full its oldest frame is dropped and counted as skipped. A sink that
    fails is aborted, and after a back-off another one is made; a sink whose peer takes nothing for long is killed, so
    that it fails. The first connection may fail three times; then the next `write` raises, and so does `close` if none
    was ever made, unless the sink `listens` and nobody called. A sink that can't come back (`reconnects` is False) and
    fails later says so once, and everything after is skipped; if it `is_only`, the next `write` raises.

    With `blocks`, `write` and `close` wait instead, as long as the peer takes frames; for one that can't be connected
    anew, such as a paused player behind a pipe, for ever. `hurry` and `cancel` end that.

    Otherwise `close` takes a bounded time, and so does `abort`: a sink that is stuck is killed where that can be done,
    else its thread is left alone and a note says so.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], StreamSink],
        notes: Notes,
        sync: SyncMeter,
        *,
        blocks: bool = False,
        reconnects: bool = True,
        listens: bool = False,
        is_only: bool = False,
    ) -> None:
        self.name = name
        self.notes = notes
        self._sync = sync
        overflow = Overflow.BLOCK if blocks else Overflow.DROP_OLDEST
        self._queue: Channel[Frame] = Channel(f"to {name}", FIRST_FRAMES, overflow, _inherit_packets)
        self._make = make
        self._blocks, self._reconnects, self._listens, self._is_only = blocks, reconnects, listens, is_only
        self._stop = threading.Event()
        self._wake = threading.Event()
        """The thread has ended, or whoever waits for that should wait less."""
        self._is_hurried = self._is_cancelled = self._has_ended = False
        self._sink: StreamSink | None = None
        self._failure: SinkError | None = None
        self._is_hopeless = False
        self.has_connected = self._gave_up = False
        self._again = self._lost = 0
        self._begun_ns = self._sent_ns = self._catch_up_until_ns = 0
        """When this connection was begun, and when a peer took a frame, or could have taken the first one."""
        self._thread = threading.Thread(target=self._run, name=f"send {name}", daemon=True)

    @property
    def counts(self) -> dict[str, int]:
        return {SKIPPED: self.skipped, "sink reconnects": self._again}

    @property
    def depth(self) -> int:
        """Frames that wait now."""
        return self._queue.depth

    @property
    def av_sync(self) -> AvSync | None:
        return self._sync.av_sync

    @property
    def skipped(self) -> int:
        """Frames that this sink didn't get to send."""
        return self._queue.dropped + self._lost

    def open(self, format: VideoFormat, media: Media) -> None:
        """Starts the thread; connecting is its business."""
        self._format = format
        layout = format.layout
        frame_bytes = sum(height * width for height, width in layout.shapes(format.width, format.height))
        room = FIRST_BYTES // (frame_bytes * layout.dtype.itemsize)
        self._queue.capacity = max(QUEUE_FRAMES, min(FIRST_FRAMES, room))
        self._media = replace(media, companions=detached_streams(media.companions))
        self._streams = {
            theirs.index: mine for theirs, mine in zip(media.companions, self._media.companions, strict=True)
        }
        self._sent_ns = time.monotonic_ns()
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Queues one frame. Raises SinkError if the sink could never connect."""
        if self._is_hopeless and self._failure is not None:
            raise self._failure
        if self._gave_up:
            self._lost += 1
            return
        packets = tuple(detached_packet(packet, self._streams[packet.stream_index]) for packet in frame.packets)
        try:
            self._put(replace(frame, packets=packets, source=None))
        except (Cancelled, Ended):
            self._lost += 1  # the thread has just given up
        self._free_if_stuck()

    def hurry(self) -> None:
        self._is_hurried = True
        self._wake.set()

    def cancel(self) -> None:
        self._is_cancelled = True
        self._discard()
        self._wake.set()

    def close(self) -> None:
        if self._thread.ident is None:
            return
        self._queue.close()
        self._drain()
        self._end()
        if not self.has_connected and self._failure is not None:
            raise self._failure
        if self.skipped:
            self.notes.say(f"{self.skipped} frames skipped, because the peer didn't take them in time or was away")

    def abort(self) -> None:
        self._queue.cancel()
        if self._thread.ident is not None:
            self._thread.join(_ABORT_S)
            self._end()

    def _put(self, frame: Frame) -> None:
        """Raises Cancelled, Ended."""
        while True:
            try:
                self._queue.put(frame, _LOOK_S)
                return
            except TimeoutError:
                self._free_if_stuck()
                if self._is_hurried and _seconds_since(self._sent_ns) > _CLOSE_S:
                    self.cancel()

    def _free_if_stuck(self) -> None:
        sink = self._sink
        if sink is None or not self._reconnects:
            return
        if not sink.is_connected and (self._listens or not self._blocks):
            return  # it may wait for its caller, or costs nobody anything
        stuck_s = _seconds_since(max(self._begun_ns, self._sent_ns))
        if self._queue.depth >= self._queue.capacity and stuck_s > _STUCK_S:
            self._begun_ns = time.monotonic_ns()
            sink.kill()

    def _drain(self) -> None:
        """Waits until everything is sent, for as long as that is worth it."""
        closed_ns = time.monotonic_ns()
        while not (self._has_ended or self._is_cancelled):
            since_ns = max(closed_ns, self._sent_ns) if self._blocks else closed_ns
            patience_s = self._patience_s()
            if patience_s is not None and _seconds_since(since_ns) >= patience_s:
                return
            self._wake.wait(None if patience_s is None else patience_s - _seconds_since(since_ns))
            self._wake.clear()

    def _patience_s(self) -> float | None:
        """So long a peer may take nothing in the end; None: for ever."""
        if self._is_hurried or not self._blocks:
            return _CLOSE_S
        return _STUCK_S if self._reconnects else None

    def _end(self) -> None:
        self._stop.set()
        sink = self._sink
        if self._thread.is_alive():
            self._discard()
            if sink is not None:
                sink.kill()
        self._thread.join(_KILL_S)
        if self._thread.is_alive():
            self.notes.say("it is stuck because its peer takes nothing; it is left alone, its stream is unfinished")

    def _discard(self) -> None:
        """Gives up what is in the queue."""
        discarded = self._queue.cancel()
        self._lost += discarded

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._stop.is_set():
                try:
                    self._send(backoff)
                    return
                except SinkError as error:
                    if not self._may_try_again(backoff, error):
                        return
        except Cancelled:
            pass
        except Exception as error:  # the thread's outermost guard: the pipeline must hear of it
            self._failure = SinkError(f"sending to {self.name} failed: {error}")
            self._failure.__cause__ = error
            self._is_hopeless = True
        finally:
            self._discard()
            self._has_ended = True
            self._wake.set()

    def _send(self, backoff: Backoff) -> None:
        """One connection from beginning to end. Raises SinkError if it fails, Cancelled."""
        sink = self._make()
        frames = iter(self._queue)
        frame = next(frames, None)
        if frame is None:
            return
        self._sink, self._begun_ns = sink, time.monotonic_ns()
        try:
            sink.open(self._format, self._media)
            while frame is not None:
                sink.write(frame)
                self._sent_ns = time.monotonic_ns()
                self._end_beginning()
                if sink.is_connected and (not self.has_connected or backoff.tries):
                    self._welcome(backoff)
                frame = next(frames, None)
            sink.close()
            self.has_connected = True
        except BaseException as error:
            self._lost += isinstance(error, SinkError)
            sink.abort()
            raise
        finally:
            self._sink = None

    def _welcome(self, backoff: Backoff) -> None:
        if self.has_connected:
            self._again += 1
            log.warning("%s: connected again", self.name)
        self.has_connected = True
        self._catch_up_until_ns = self._sent_ns + int(_CATCH_UP_S * 1e9)
        backoff.succeeded()

    def _end_beginning(self) -> None:
        """Fewer frames may wait when those of the beginning have been sent, or can't be."""
        is_over = self._queue.depth <= QUEUE_FRAMES or self._sent_ns > self._catch_up_until_ns
        if self.has_connected and is_over:
            self._queue.capacity = QUEUE_FRAMES

    def _may_try_again(self, backoff: Backoff, error: SinkError) -> bool:
        """Whether to go on after a failure; waits for the back-off."""
        if self._stop.is_set():
            if not self._listens:
                self._failure = error
            return False
        self._failure = error
        never = not self.has_connected and (backoff.tries >= _FIRST_LIMIT or not self._reconnects)
        if never or (self._is_only and not self._reconnects):
            self._is_hopeless = True
            return False
        if not self._reconnects:
            self._gave_up = True
            self.notes.say(f"{error}; its output ends here")
            return False
        delay_s = backoff.next_s()
        log.warning("%s; next try in %.1f s", error, delay_s)
        self._stop.wait(delay_s)
        return True


def _seconds_since(then_ns: int) -> float:
    return (time.monotonic_ns() - then_ns) / 1e9


def _inherit_packets(dropped: Frame, following: Frame) -> Frame:
    """Sound outlives a dropped picture, but not without bound: a sink that is stuck for long loses the oldest."""
    if not dropped.packets:
        return following
    packets: tuple[Any, ...] = dropped.packets + following.packets
    return replace(following, packets=packets[-_MAX_PACKETS:])
