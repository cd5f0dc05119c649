"""Live inputs: cameras and network streams, kept alive through every loss of the connection."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from streamer.channel import Cancelled, Channel, Ended, Overflow
from streamer.clock import fraction, ticks
from streamer.errors import SourceError, public_url
from streamer.frame import DEFAULT_RATE, Frame, VideoFormat
from streamer.notes import Notes
from streamer.pool import PlanePool
from streamer.sources.inputs import input_for
from streamer.sources.receiver import MAX_SOUNDS, Arrival, Receiver
from streamer.sources.standin import dimmed, prepare
from streamer.stage import DROPPED_ON_ARRIVAL, RECONNECTS, STAND_INS, Media
from streamer.stats import AvSync
from streamer.sync import SyncMeter
from streamer.timeline import TIME_BASE, LiveTimeline

log = logging.getLogger(__name__)

INBOX_FRAMES = 2
"""Pictures that may wait between the receiving thread and `read`; at 30 Hz they are at most 67 ms old."""

_PATIENCE_S = 0.2
_DIM_AFTER_S = 1.0
_CATCH_UP_S = 1.0
_CLOSE_S = 1.0
_AAC_SAMPLES = 1024


@dataclass(slots=True)
class _Sound:
    """Where a stream of sound is, in its own unit."""

    stated: int | None = None
    """What the last packet that said so said of its time."""
    end: int | None = None
    """Where the last packet ends on the timeline, used or not."""
    last: int = -1
    """Where the last one that was used begins."""


class LiveSource:
    """A camera or network stream as one endless stream of frames.

    A receiving thread connects, decodes and reconnects (see Receiver); `read` takes the newest pictures from it. When
    none comes for 0.2 s or three frame intervals, `read` fills the gap at the nominal rate: with the last picture, and
    once the connection is lost or a second has passed, with that picture dimmed under a line of text. Sound that comes
    meanwhile goes with them. All times lie on one timeline (see LiveTimeline). The format is the first connection's;
    later pictures are scaled and padded to it.

    `reconnect_limit` is how many tries in a row may fail, None for ever; the first connection has at most three.
    `duration` ends the stream after that many seconds.
    """

    live = True

    def __init__(
        self,
        url: str,
        *,
        duration: Fraction | None = None,
        reconnect_limit: int | None = None,
        rtsp_transport: str = "tcp",
    ) -> None:
        self._name = public_url(url)
        self._duration = duration
        self._inbox: Channel[Arrival] = Channel("received", INBOX_FRAMES, Overflow.DROP_OLDEST, _inherit_sounds)
        self.notes = Notes(self._name)
        input = input_for(url, rtsp_transport)
        self._receiver = Receiver(input, url, self._inbox, reconnect_limit, self.notes)
        self._timeline = LiveTimeline()
        self._first: Arrival | None = None
        self._last: Frame | None = None
        self._number = self._connection = 0
        self._is_gap = self._is_dimmed = False
        self._stand_ins = 0
        self._sounds: dict[int, _Sound] = {}
        self._sync = SyncMeter()
        self._kept: tuple[Any, ...] = ()
        """Sound that came alone or with pictures that were too late: it goes with the next frame."""
        self._pool = PlanePool()

    @property
    def format(self) -> VideoFormat:
        if self._receiver.format is None:
            raise SourceError(f"{self._name} has no format before it is opened")
        return self._receiver.format

    @property
    def media(self) -> Media:
        return Media(companions=self._receiver.sounds, metadata=self._receiver.metadata, live=True)

    @property
    def frames_total(self) -> int | None:
        if self._duration is None or self._receiver.format is None:
            return None
        return round(self._duration * self._rate)

    @property
    def counts(self) -> dict[str, int]:
        found = {
            RECONNECTS: self._receiver.reconnects,
            STAND_INS: self._stand_ins,
            "corrupt packets": self._receiver.corrupt,
            DROPPED_ON_ARRIVAL: self._inbox.dropped,
            "late pictures": self._timeline.late,
            "format changes": self._receiver.format_changes,
            "jumps in time": self._timeline.jumps,
            "repaired timestamps": self._timeline.repaired,
        }
        return {event: number for event, number in found.items() if number}

    @property
    def av_sync(self) -> AvSync | None:
        """What the timeline does to the stream's own times."""
        return self._sync.av_sync

    @property
    def depth(self) -> int:
        """Pictures that were received and wait for `read`."""
        return self._inbox.depth

    def open(self) -> None:
        """Waits for the first picture. Raises SourceError if the first connection can't be made."""
        self._receiver.start()
        prepare()
        try:
            self._first = self._inbox.get()
        except Cancelled:
            return  # interrupted before it began
        except Ended:
            self.close()
            raise self._receiver.error or SourceError(
                f"can't read {self._name}: it ended before its first picture"
            ) from None
        self._rate = self.format.rate or DEFAULT_RATE
        self._interval = ticks(1 / self._rate, TIME_BASE)
        self._patience = max(ticks(Fraction(_PATIENCE_S), TIME_BASE), 3 * self._interval)
        self._origin_ns = self._heard_ns = self._first.arrived_ns
        self._number = self._first.number - 1

    def read(self) -> Frame | None:
        """The next picture, or one that stands in for it when it is overdue; None after `interrupt` or the end."""
        if self._first is None and self._last is None:
            return None  # interrupted before it began
        try:
            frame = self._next()
        except Cancelled:
            return None
        except Ended:
            if self._receiver.error is not None:
                raise self._receiver.error from None
            if not self._kept:
                return None
            frame = self._repeated()  # for sound that lies behind the last picture
        if self._duration is not None and frame.pts * TIME_BASE >= self._duration:
            return None
        self._last = frame
        return frame

    def interrupt(self) -> None:
        self._inbox.cancel()
        self._receiver.stop()

    def close(self) -> None:
        self._first = self._last = None
        self.interrupt()
        if not self._receiver.join(_CLOSE_S):
            log.info("%s doesn't answer: its connection is left to its own time limit", self._name)

    # -- the next frame --------------------------------------------------------------------------------------------

    def _next(self) -> Frame:
        while True:
            arrival, self._first = self._first, None
            if arrival is None:
                try:
                    arrival = self._inbox.get(self._until_overdue_s())
                except TimeoutError:
                    return self._stand_in()
            if not arrival.planes:
                self._keep(arrival)
                continue
            frame = self._placed(arrival)
            if frame is not None:
                return frame

    def _until_overdue_s(self) -> float:
        """Seconds until a frame must be filled in: in a gap on the grid of the nominal rate, else with patience."""
        assert self._timeline.last is not None
        due = self._timeline.last + (self._interval if self._is_gap else self._patience)
        return max(0.0, float((due - self._now()) * TIME_BASE))

    def _now(self) -> int:
        """The time on the timeline, in its units."""
        return ticks(Fraction(time.monotonic_ns() - self._origin_ns, 10**9) - self._timeline.lag_s, TIME_BASE)

    def _placed(self, arrival: Arrival) -> Frame | None:
        """The frame of an arrived picture; None if its time is filled already.

        Its sound is kept then, but where the anchor has just moved, in the burst at a connection's beginning.
        """
        self._heard_ns = arrival.arrived_ns
        reconnected = arrival.connection != self._connection
        if reconnected:
            self._timeline.reconnected()
            self._connection = arrival.connection
        jumps, anchor_s = self._timeline.jumps, self._timeline.shifted(Fraction(0))
        pts = self._timeline.place(arrival.stream_s, Fraction(arrival.arrived_ns - self._origin_ns, 10**9))
        if pts is None and self._timeline.shifted(Fraction(0)) != anchor_s:
            return None
        if pts is not None and arrival.stream_s is not None:
            self._sync.picture(arrival.stream_s, pts * TIME_BASE)
        self._keep(arrival)
        if pts is None:
            return None
        step, self._number = arrival.number - self._number, arrival.number
        discontinuity = reconnected or self._is_dimmed or self._timeline.jumps > jumps
        self._is_gap = self._is_dimmed = False
        return Frame(
            planes=arrival.planes,
            format=self.format,
            pts=pts,
            time_base=TIME_BASE,
            duration=self._interval,
            index=step - 1 if self._last is None else self._last.index + step,
            captured_ns=arrival.arrived_ns,
            discontinuity=discontinuity,
            packets=self._sound(),
            qp=arrival.qp,
        )

    def _keep(self, arrival: Arrival) -> None:
        moved = tuple(packet for packet in arrival.packets if self._moved(packet))
        self._kept = (self._kept + moved)[-MAX_SOUNDS:]

    def _sound(self) -> tuple[Any, ...]:
        """What was kept, for one frame."""
        kept, self._kept = self._kept, ()
        return kept

    def _moved(self, packet: Any) -> bool:
        """Moves a packet of sound onto the timeline; whether it comes after what its stream had before."""
        unit = fraction(packet.time_base)
        when = packet.dts if packet.dts is not None else packet.pts
        sound = self._sounds.setdefault(packet.stream_index, _Sound())
        is_stated = False
        if not packet.duration:
            packet.duration = _frame_ticks(packet, unit)
        if sound.end is not None and when in (None, sound.stated):
            moved = sound.end  # one of several that came in one RTP packet: only the first has its time
        elif when is not None:
            moved = ticks(self._timeline.shifted(when * unit), unit)
            sound.stated, is_stated = when, True
        else:
            return False
        sound.end = moved + packet.duration
        if moved <= sound.last:
            return False
        sound.last = moved
        packet.pts = moved if when is None or packet.pts is None else packet.pts + moved - when
        packet.dts = moved
        if when is not None and is_stated:
            self._sync.sound(packet.stream_index, when * unit, moved * unit)
        return True

    def _stand_in(self) -> Frame:
        assert self._last is not None
        assert self._timeline.last is not None
        self._is_gap = True
        steps, missing = 1, self._now() - self._timeline.last
        if missing > ticks(Fraction(_CATCH_UP_S), TIME_BASE):
            steps = missing // self._interval  # this thread was held up: on with the grid
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        dims = not self._is_dimmed and (not self._receiver.connected or silent_s > _DIM_AFTER_S)
        self._is_dimmed = self._is_dimmed or dims
        return self._repeated(steps, dims)

    def _repeated(self, steps: int = 1, dims: bool = False) -> Frame:
        """The last picture, so many intervals after it, with the sound that waits."""
        assert self._last is not None
        self._stand_ins += 1
        return replace(
            self._last,
            planes=dimmed(self._last.planes, self.format, self._pool) if dims else self._last.planes,
            pts=self._timeline.fill(steps * self._interval),
            index=self._last.index + 1,
            captured_ns=time.monotonic_ns(),
            discontinuity=dims,
            packets=self._sound(),
        )


def _frame_ticks(packet: Any, unit: Fraction) -> int:
    """How long a packet is whose container doesn't say: AAC's frames have 1024 samples (ISO/IEC 14496-3)."""
    codec = packet.stream.codec_context
    if codec is None or codec.name != "aac" or not codec.sample_rate:
        return 0
    return ticks(Fraction(_AAC_SAMPLES, codec.sample_rate), unit)


def _inherit_sounds(dropped: Arrival, following: Arrival) -> Arrival:
    """Dropping a picture must not drop the sound that came with it; a reader that is away for long loses the oldest."""
    if not dropped.packets:
        return following
    return replace(following, packets=(dropped.packets + following.packets)[-MAX_SOUNDS:])
