"""`preview:` — a window that shows the newest frame, before and after."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import Protocol

from streamer.errors import SinkError
from streamer.frame import HLG, PQ, Frame, VideoFormat
from streamer.notes import Notes
from streamer.stage import Media
from streamer.stats import Stats


class Controls(Protocol):
    """What keys change while the pipeline runs; any thread."""

    @property
    def model(self) -> str: ...
    @property
    def strength(self) -> float: ...
    def next_model(self) -> None: ...
    def add_strength(self, step: float) -> None: ...
    @property
    def stabiliser(self) -> str: ...
    def toggle_stabiliser(self) -> None: ...


class PreviewSink:
    """Keeps the newest frame for a window, which another thread runs with `show`; never waits for it.

    The window closes when the stream ends; if that was one picture, a photograph, when the user closes it. Frames that
    the window had no time for are counted. Raises SinkError where the library is missing.
    """

    name = "preview:"

    def __init__(self) -> None:
        if importlib.util.find_spec("pygame") is None:
            raise SinkError("preview: needs the preview extra: pip install 'streamer-enhancer[preview]'")
        self.notes = Notes(self.name)
        self._skipped = self._frames = 0
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._wake: Callable[[], None] | None = None

    @property
    def counts(self) -> dict[str, int]:
        return {"frames not shown": self._skipped}

    def open(self, format: VideoFormat, media: Media) -> None:
        if format.color.transfer in (PQ, HLG):
            self.notes.say("HDR is shown as if it were not, so it looks pale; what other outputs get is not changed")

    def write(self, frame: Frame) -> None:
        with self._changed:
            self._frames += 1
            self._skipped += self._frame is not None and self._wake is not None
            self._frame = frame
            self._tell()

    def close(self) -> None:
        if self._frames != 1:
            self.abort()

    def abort(self) -> None:
        with self._changed:
            self._ended = True
            self._tell()

    def hurry(self) -> None:
        """The stream ends early: nobody is waited for. Any thread."""
        self.abort()

    cancel = hurry

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            self._wake()

    # -- the window's thread ---------------------------------------------------------------------------------------

    def show(
        self,
        controls: Controls | None,
        stats: Stats,
        stop: Callable[[], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Runs the window on the calling thread until the stream has ended or the user quits, which calls `stop`.

        `interrupted` is asked after every event, at least ten times a second: whether to quit now. On macOS that must
        be the main thread. Raises SinkError if no window can be opened.
        """
        from streamer.sinks.window import Window

        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
        frame = self._take()
        if frame is None:
            return
        with Window(frame, controls, stats) as window:
            with self._changed:
                self._wake = window.wake
            try:
                while not self._ended and not interrupted() and window.attend():
                    frame = self._take()
                    if frame is not None:
                        window.show(frame)
                if not self._ended:
                    stop()
            finally:
                with self._changed:
                    self._wake = None

    def _take(self) -> Frame | None:
        with self._changed:
            frame, self._frame = self._frame, None
            return frame
