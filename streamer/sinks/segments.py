"""A recording in pieces: `rec-%03d.mkv`, each piece a file of its own that plays from its beginning."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamer.clock import time_of
from streamer.errors import UsageError
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.numbered import numbered, numbers_present
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.media import MediaSink
from streamer.stage import Media
from streamer.stats import AvSync

MIN_S, MAX_S = 1, 86400
_LATE_S = 1
"""So long after its last picture a segment waits for sound that comes behind its picture."""


class SegmentedSink:
    """Writes segments of `seconds` each, numbered from 0 as FFmpeg does.

    A segment begins with the first frame at or after a multiple of `seconds` since the first of all, with an encoder of
    its own, at time zero. Sound goes to the segment that its time belongs to. A segment is complete, and has its name,
    one second into the next; it is finished on another thread, so that the pipeline doesn't wait for its encoder.
    Chapters are left out. Raises UsageError and SinkError; segments that are complete stay whatever comes.
    """

    def __init__(self, path: str, settings: EncoderSettings, seconds: Fraction, *, force: bool = False) -> None:
        self.name = path
        self.notes = Notes(path)
        self.counts: dict[str, int] = {}
        self._settings, self._seconds, self._force = settings, seconds, force
        self._synced: AvSync | None = None
        if not MIN_S <= seconds <= MAX_S:
            raise UsageError(f"--segment {float(seconds):g} is out of range: {MIN_S} to {MAX_S} seconds")
        self._number = 0
        taken = [] if force else numbers_present(Path(path))
        if taken:
            first = numbered(Path(path), taken[0])
            raise UsageError(f"{first} exists already: give another name, or --force to replace it")
        self._make(Fraction(0))  # says at once what can't work
        self._current: MediaSink | None = None
        self._last: MediaSink | None = None
        self._origin_s = self._begin_s = self._end_s = Fraction(0)
        self._early: list[Any] = []
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def av_sync(self) -> AvSync | None:
        """Of the segment that is being written; the worst of all."""
        before, current = self._synced, self._current
        found = current.av_sync if current is not None else None
        if before is None or found is None:
            return found or before
        return replace(found, worst_ms=max(before.worst_ms, found.worst_ms, key=abs))

    def open(self, format: VideoFormat, media: Media) -> None:
        self._format, self._media = format, replace(media, chapters=())

    def write(self, frame: Frame) -> None:
        if self._failure is not None:
            raise self._failure
        if self._current is None:
            self._origin_s = frame.time
            self._current = self._begin(frame.time)
        elif frame.time >= self._end_s:
            self._finish_last()
            self._synced = self.av_sync
            self._last, self._current = self._current, self._begin(frame.time)
        elif frame.time >= self._begin_s + _LATE_S:
            self._finish_last()
        self._current.write(replace(frame, packets=()))
        packets, self._early = [*self._early, *frame.packets], []
        self._distribute(packets)

    def close(self) -> None:
        """Finishes the last segment. Raises SinkError."""
        if self._current is None:
            return
        self._end_s = Fraction(2**62)
        packets, self._early = self._early, []
        self._distribute(packets)
        self._synced = self.av_sync
        current, self._current = self._current, None
        try:
            current.close()
        finally:  # one that can't be finished takes no other with it
            self._finish_last()
            self._wait()

    def abort(self) -> None:
        """Discards the segments that are under way."""
        if self._finishing is not None:
            self._finishing.join()
        for sink in (self._last, self._current):
            if sink is not None:
                sink.abort()
        self._last = self._current = None

    def _begin(self, time_s: Fraction) -> MediaSink:
        """Opens the segment whose first frame is of this time."""
        sink = self._make(time_s)
        sink.open(self._format, self._media)
        self._number += 1
        periods = (time_s - self._origin_s) // self._seconds + 1
        self._begin_s, self._end_s = time_s, self._origin_s + periods * self._seconds
        return sink

    def _make(self, begin_s: Fraction) -> MediaSink:
        name = str(numbered(Path(self.name), self._number))
        return MediaSink(name, self._settings, force=self._force, begin_s=begin_s, notes=self.notes)

    def _distribute(self, packets: Iterable[Any]) -> None:
        """Gives each packet to the segment that its time belongs to; what belongs to the next one waits for it."""
        assert self._current is not None
        for packet in packets:
            time_s = time_of(packet)
            if time_s is None:
                time_s = self._begin_s
            if time_s >= self._end_s:
                self._early.append(packet)
            elif time_s >= self._begin_s or self._number == 1:
                self._current.mux((packet,))
            elif self._last is not None:
                self._last.mux((packet,))
            else:
                self.counts["late packets"] = self.counts.get("late packets", 0) + 1

    # -- finishing -------------------------------------------------------------------------------------------------

    def _finish_last(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._wait()
            self._finishing = threading.Thread(target=self._finish, args=(last,), name=f"finish {last.name}")
            self._finishing.start()

    def _finish(self, sink: MediaSink) -> None:
        try:
            sink.close()
        except BaseException as error:  # the thread's outermost guard: the next write or close raises it
            self._failure = error

    def _wait(self) -> None:
        if self._finishing is not None:
            self._finishing.join()
        if self._failure is not None:
            raise self._failure
