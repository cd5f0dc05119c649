"""A recording played as if it were live: each frame at its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from streamer.frame import Frame, VideoFormat
from streamer.stage import Media, Source


class PacedSource:
    """Gives the frames of another source on an absolute grid: no earlier than their times after the first one.

    Being live, it may lose frames at the pipeline's head, but only there.
    """

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._interrupted = threading.Event()
        self._first: tuple[Fraction, int] | None = None

    @property
    def format(self) -> VideoFormat:
        return self._source.format

    @property
    def media(self) -> Media:
        return self._source.media

    @property
    def frames_total(self) -> int | None:
        return self._source.frames_total

    @property
    def counts(self) -> Mapping[str, int]:
        return self._source.counts

    @property
    def notes(self) -> Sequence[str]:
        return self._source.notes

    def open(self) -> None:
        self._source.open()

    def read(self) -> Frame | None:
        frame = self._source.read()
        if frame is None:
            return None
        if self._first is None:
            self._first = frame.time, time.monotonic_ns()
        first_s, origin_ns = self._first
        due_ns = origin_ns + int((frame.time - first_s) * 10**9)
        if self._interrupted.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
            return None
        return replace(frame, captured_ns=time.monotonic_ns())

    def interrupt(self) -> None:
        self._interrupted.set()
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
