"""The three contracts of a pipeline: what gives frames, what changes them, what takes them.

Constructors store; `open` acquires; `close` is harmless when repeated. Each object is opened, used and closed on the
one thread that the pipeline gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

from streamer.frame import Frame, VideoFormat
from streamer.stats import AvSync

DROPPED_ON_ARRIVAL = "pictures dropped on arrival"
"""What a live source counts that had no room for them."""
RECONNECTS, STAND_INS = "reconnects", "stand-in frames"
"""What else it counts: connections after the first, and repeated pictures in place of those that didn't come."""
SKIPPED = "skipped"
"""What a live sink counts: frames that it didn't take in time."""


@dataclass(frozen=True)
class Media:
    """What a source carries beside its pictures, for sinks that can keep it.

    `companions` are the PyAV streams whose packets ride on the frames (`Frame.packets`) and are copied bit for bit;
    `metadata` and `chapters` are the container's, `video_metadata` and `video_disposition` the picture stream's.
    `display_matrix` is FFmpeg's 3x3 display transform (16.16 fixed point), `start` the first picture's time in seconds.
    `live` says that all of it comes as it happens: what isn't there soon after its time never will be.
    """

    companions: tuple[Any, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    chapters: tuple[Any, ...] = ()
    video_metadata: Mapping[str, str] = field(default_factory=dict)
    video_disposition: int = 0
    display_matrix: tuple[int, ...] | None = None
    start: Fraction = Fraction(0)
    live: bool = False


class Source(Protocol):
    """Gives frames in order of time, all of one format.

    `live` sources give frames at their own times and may be dropped at the head; others wait for the pipeline.
    `frames_total` is the expected number of frames, if known; `counts` what was unusual so far, by name; `notes` what
    the user should know of it.
    """

    live: bool

    @property
    def format(self) -> VideoFormat: ...
    @property
    def media(self) -> Media: ...
    @property
    def frames_total(self) -> int | None: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def open(self) -> None:
        """Acquires the input and learns its format. Raises SourceError."""

    def read(self) -> Frame | None:
        """The next frame, or None at the end (also after `interrupt`). Raises SourceError; an error is never an end."""

    def interrupt(self) -> None:
        """Makes a running or later `read` return None soon. Any thread."""

    def close(self) -> None:
        """Releases the input; a later `read` returns None."""


class Stage(Protocol):
    """Turns frames into frames; may hold some back. Frames come out in the order in which they went in."""

    name: str

    def open(self, format: VideoFormat) -> VideoFormat:
        """Prepares for frames of `format`; returns the format of what will come out. Raises StreamerError."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        """Takes one frame, gives those that are ready: none, one or several."""

    def flush(self) -> Iterable[Frame]:
        """Gives what is still held back; called once, at the end."""

    def close(self) -> None:
        """Releases what `open` acquired."""


@runtime_checkable
class Prompt(Protocol):
    """A stage whose work goes on between calls, and which can give a frame as soon as it is done.

    For live streams the pipeline sets `wake` before `open`; the stage calls it, from any thread, when `ready` may have
    something to give. A stage without it gives frames when the next ones come in.
    """

    wake: Callable[[], None] | None

    def ready(self) -> Iterable[Frame]:
        """Gives the frames that are done; called on the stage's thread while no frame is waiting to come in."""

    def held(self, duration_ns: int) -> None:
        """The frame given last had to wait so long for room: what is behind this stage is slower. On its thread."""


@runtime_checkable
class Interruptible(Protocol):
    """A stage that may take minutes to open."""

    def interrupt(self) -> None:
        """Lets an `open` that is under way, or begins later, raise Cancelled if it would take long. Any thread."""


@runtime_checkable
class Waiting(Protocol):
    """A sink whose `write` and `close` may wait for a peer for as long as that likes."""

    def hurry(self) -> None:
        """The stream ends early: a peer that takes nothing is waited for a few seconds only. Any thread."""

    def cancel(self) -> None:
        """Lets a `write` or `close` that waits, now or later, return soon; what isn't sent is lost. Any thread."""


@runtime_checkable
class Counting(Protocol):
    """A stage that also counts what was unusual, by name; the pipeline adds it to its events at the end."""

    @property
    def counts(self) -> Mapping[str, int]: ...


@runtime_checkable
class Reporting(Protocol):
    """A stage that says how it stands; see `streamer.stats.Reading.status`. Any thread may ask."""

    @property
    def status(self) -> Mapping[str, str | int]: ...


@runtime_checkable
class Queueing(Protocol):
    """A source or sink with a queue of its own."""

    @property
    def depth(self) -> int | None:
        """Frames that wait in it now; None for a wrapper around one that has no queue. Any thread."""


@runtime_checkable
class Sounding(Protocol):
    """A source or sink that may have sound beside its pictures, and gives both other times than they had."""

    @property
    def av_sync(self) -> AvSync | None:
        """How far that takes them apart; None as long as there is no sound. Any thread."""


class Sink(Protocol):
    """Takes frames; a `write` that blocks is back-pressure.

    After the last frame exactly one of `close` (finish: flush, complete, publish) or `abort` (discard, leave nothing
    behind) is called; either is harmless when repeated or called without `open`. Several sinks of one pipeline are
    finished one after the other: if a later one fails, what an earlier one has published stays. `notes` and `counts` as
    for sources.
    """

    name: str

    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...

    def open(self, format: VideoFormat, media: Media) -> None:
        """Prepares for frames of `format`. Raises SinkError."""

    def write(self, frame: Frame) -> None:
        """Takes one frame. Raises SinkError."""

    def close(self) -> None:
        """Flushes and finishes the output. Raises SinkError."""

    def abort(self) -> None:
        """Discards an unfinished output. Doesn't raise."""
