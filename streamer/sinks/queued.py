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
from streamer.stage import Media
from streamer.stats import AvSync
from streamer.sync import SyncMeter

log = logging.getLogger(__name__)

QUEUE_FRAMES = 8
"""Frames that may wait for one live sink; at 30 Hz they are at most 0.27 s old. A 1080p frame takes 3 MB."""
FIRST_FRAMES, FIRST_BYTES = 50, 128 << 20
"""Until the first connection is made more frames may wait (but not more bytes), so that a stream begins whole."""

_FIRST_LIMIT = 2
_STUCK_S = 15.0
"""A peer that takes nothing for so long is connected anew, where its connection can be killed."""
_CLOSE_S = 3.0
_KILL_S = 2.0
_MAX_PACKETS = 500


class QueuedSink:
    """Feeds sinks that `make` gives, one after the other, from a bounded queue on a thread of its own.

    `sync` is the meter of them all.

    `write` returns at once: when the queue is full its oldest frame is dropped and counted as skipped (with `blocks`,
    `write` waits instead). A sink that fails is aborted, and after a back-off another one is made. The first
    connection may fail three times; then the next `write` raises, and so does `close` if none was ever made. A sink
    that can't come back (`reconnects` is False) and fails later says so once, and everything after is skipped; if it
    `is_only`, the next `write` raises.

    `close` and `abort` take a bounded time: a sink that is stuck is killed where that can be done, else its thread is
    left alone and a note says so.
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
        is_only: bool = False,
    ) -> None:
        self.name = name
        self.notes = notes
        self._sync = sync
        overflow = Overflow.BLOCK if blocks else Overflow.DROP_OLDEST
        self._queue: Channel[Frame] = Channel(f"to {name}", FIRST_FRAMES, overflow, _inherit_packets)
        self._make = make
        self._reconnects, self._is_only = reconnects, is_only
        self._stop = threading.Event()
        self._sink: StreamSink | None = None
        self._failure: SinkError | None = None
        self._is_hopeless = False
        self.has_connected = self._gave_up = False
        self._again = self._lost = self._moved_ns = 0
        self._thread = threading.Thread(target=self._run, name=f"send {name}", daemon=True)

    @property
    def counts(self) -> dict[str, int]:
        return {"skipped": self._queue.dropped + self._lost, "sink reconnects": self._again}

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
            self._queue.put(replace(frame, packets=packets, source=None))
        except (Cancelled, Ended):
            self._lost += 1  # the thread has just given up
        self._free_if_stuck()

    def close(self) -> None:
        if self._thread.ident is None:
            return
        self._queue.close()
        self._end(_CLOSE_S)
        if not self.has_connected and self._failure is not None:
            raise self._failure
        if self.skipped:
            self.notes.say(f"{self.skipped} frames skipped, because the peer didn't take them in time or was away")

    def abort(self) -> None:
        self._queue.cancel()
        if self._thread.ident is not None:
            self._end(0.5)

    def _free_if_stuck(self) -> None:
        sink = self._sink
        stuck_ns = time.monotonic_ns() - self._moved_ns
        if sink is None or not sink.is_connected:
            return  # a listener may wait for its caller
        if self._queue.depth >= self._queue.capacity and stuck_ns > _STUCK_S * 1e9:
            self._moved_ns = time.monotonic_ns()
            sink.kill()

    def _end(self, patience_s: float) -> None:
        self._thread.join(patience_s)
        self._stop.set()
        sink = self._sink
        if self._thread.is_alive() and sink is not None:
            self._lost += self._queue.depth
            self._queue.cancel()
            sink.kill()
        self._thread.join(_KILL_S)
        if self._thread.is_alive():
            self.notes.say("it is stuck because its peer takes nothing; it is left alone, its stream is unfinished")

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
            self._queue.cancel()

    def _send(self, backoff: Backoff) -> None:
        """One connection from beginning to end. Raises SinkError if it fails, Cancelled."""
        sink = self._make()
        try:
            frame = self._queue.get()
        except Ended:
            return
        self._sink, self._moved_ns = sink, time.monotonic_ns()
        try:
            sink.open(self._format, self._media)
            while True:
                sink.write(frame)
                self._moved_ns = time.monotonic_ns()
                if sink.is_connected and (not self.has_connected or backoff.tries):
                    self._welcome(backoff)
                try:
                    frame = self._queue.get()
                except Ended:
                    break
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
        self._queue.capacity = QUEUE_FRAMES
        backoff.succeeded()

    def _may_try_again(self, backoff: Backoff, error: SinkError) -> bool:
        """Whether to go on after a failure; waits for the back-off."""
        if self._stop.is_set():
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


def _inherit_packets(dropped: Frame, following: Frame) -> Frame:
    """Sound outlives a dropped picture, but not without bound: a sink that is stuck for long loses the oldest."""
    if not dropped.packets:
        return following
    packets: tuple[Any, ...] = dropped.packets + following.packets
    return replace(following, packets=packets[-_MAX_PACKETS:])
