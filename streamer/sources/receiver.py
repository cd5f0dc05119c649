"""The thread behind a live source: connects, demuxes, decodes, hands pictures over, and connects again."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.backoff import Backoff
from streamer.channel import Cancelled, Channel
from streamer.clock import fraction, time_of
from streamer.color import explicit
from streamer.convert import converted_planes, planes_of
from streamer.detached import detached_packet, detached_streams
from streamer.errors import SourceError, public_url
from streamer.frame import Plane, VideoFormat
from streamer.notes import Notes
from streamer.sources.connection import Connection, Lost, Over, Unrepeatable
from streamer.sources.deinterlace import Deinterlacer
from streamer.sources.inputs import Input
from streamer.sources.letterbox import Letterbox
from streamer.sources.pictures import check_size, describe, has_layout_of, has_size_of, nominal_rate
from streamer.sources.quantiser import EXPORT, qp_of

log = logging.getLogger(__name__)

_FIRST_LIMIT = 2
"""Reconnects before the first picture, even if later ones may go on for ever: a wrong address must become an error."""
MAX_SOUNDS = 500
"""Packets of sound that may wait for a picture; the oldest go first."""
_PATIENCE_NS = 200_000_000
"""After so long without a picture, sound goes alone."""
_SOUND_AHEAD_S = 1
"""How far sound may lie before its picture in what comes faster than real time."""
_JUMP_S = 5
_LATE_S = Fraction(1, 50)
_CLOCKLESS = {"mpjpeg", "mjpeg", "h264", "hevc"}
"""Formats without timestamps: FFmpeg counts frames at a guessed rate, so that the arrival is the better clock."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One decoded picture: when it came (monotonic ns), what its stream says of its time, and the sound before it.

    Without `planes` it is sound alone, that goes on although no picture comes. `number` counts pictures over all
    connections (a jump: dropped), `connection` counts connections from 0.
    """

    planes: tuple[Plane, ...]
    stream_s: Fraction | None
    arrived_ns: int
    number: int
    connection: int
    packets: tuple[Any, ...]
    qp: float | None


class Receiver:
    """Keeps one live input connected from a thread of its own and puts its pictures into `inbox`.

    `format`, `metadata` and `sounds` (detached audio streams) are those of the first connection, set before the first
    picture is put. When it gives up, or an input that can't be opened again ends, `error` says why (None: it simply
    ended) and the inbox is closed.
    """

    def __init__(self, input: Input, url: str, inbox: Channel[Arrival], limit: int | None, notes: Notes) -> None:
        self.format: VideoFormat | None = None
        self.sounds: tuple[Any, ...] = ()
        self.metadata: dict[str, str] = {}
        self.error: SourceError | None = None
        self.connected = False
        self.reconnects = 0
        self.format_changes = 0
        self._corrupt = 0
        self._input, self._url, self._limit = input, url, limit
        self._name = public_url(url)
        self._inbox = inbox
        self._notes = notes
        self._stop = threading.Event()
        self._connection: Connection | None = None
        self._is_finite = False
        self._number = self._connections = self._put_ns = 0
        self._thread = threading.Thread(target=self._run, name=f"receive {self._name}", daemon=True)

    @property
    def corrupt(self) -> int:
        """Damaged packets so far."""
        connection = self._connection
        return self._corrupt + (connection.corrupt if connection is not None else 0)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread soon: at once in a back-off, else within the input's time limits. Any thread."""
        self._stop.set()
        connection = self._connection
        if connection is not None:
            connection.kill()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended (or never begun)."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._stop.is_set():
                try:
                    self._receive(backoff)
                except Lost as error:
                    self._wait_or_give_up(backoff, error)
        except Cancelled:
            pass
        except Over as error:
            log.info("%s: %s", self._name, error)
        except SourceError as error:
            self.error = error
        except Exception as error:  # the thread's outermost guard: the reader must hear of it
            self.error = SourceError(f"receiving {self._name} failed: {error}")
            self.error.__cause__ = error
        finally:
            self._inbox.close()

    def _wait_or_give_up(self, backoff: Backoff, error: Lost) -> None:
        """Returns when it is time for the next try. Raises SourceError when there is none, Cancelled at a plain end."""
        first = self.format is None
        if not self._input.reconnects and not first:
            log.info("%s: %s", self._name, error)
            raise Cancelled
        if self._is_finite and not first:
            raise SourceError(f"can't go on reading {self._name}: {error}") from error
        limit = self._limit
        if first:
            limit = _FIRST_LIMIT if limit is None else min(_FIRST_LIMIT, limit)
        if not self._input.reconnects or (limit is not None and backoff.tries >= limit):
            tried = f" (tried {backoff.tries + 1} times)" if backoff.tries else ""
            what = "connect to" if first else "reconnect to"
            raise SourceError(f"can't {what} {self._name}{tried}: {error}") from error
        delay_s = backoff.next_s()
        log.warning("%s: %s; next try in %.1f s", self._name, error, delay_s)
        self._stop.wait(delay_s)

    def _receive(self, backoff: Backoff) -> None:
        """One connection from beginning to end. Raises Lost, Over, Unrepeatable, or Cancelled by the reader."""
        connection = Connection(self._input, self._url, self._stop)
        self._connection = connection
        try:
            self._open(connection)
            pacer = _Pacer(self._stop) if self._input.paced else None
            session = _Session(connection, _Decoder(connection, self._name, self._notes), pacer)
            try:
                for event in session.decoder.events():
                    if isinstance(event, av.VideoFrame):
                        self._take_picture(session, event, backoff)
                    else:
                        self._take_sound(session, event)
            except (Lost, Over):
                if session.waiting and self.connected and self._inbox.depth < self._inbox.capacity:
                    self._put_sound(session)
                raise
        finally:
            self.connected = False
            self._connection = None
            self._corrupt += connection.corrupt
            connection.close()

    def _open(self, connection: Connection) -> None:
        try:
            connection.open()
        except Unrepeatable as error:
            if self.format is None:
                raise
            raise Lost(str(error)) from error  # it was good once and may be so again
        self._is_finite = connection.is_finite
        if connection.is_finite and self.format is not None:
            raise Over("its playlist has ended")  # and would be played again from its beginning

    def _welcome(self, session: _Session, picture: av.VideoFrame) -> None:
        self.connected = True
        if self.format is None:
            connection = session.connection
            rate = nominal_rate(connection.video, probed=False)
            self.metadata = dict(connection.container.metadata)
            self.sounds = detached_streams(connection.sounds)
            format = describe(picture, connection.container, connection.video, rate, self._name, self._notes)
            self.format = explicit(format)
            self._letterbox = Letterbox(self.format)
        else:
            self.reconnects += 1
            log.warning("%s: connected again", self._name)
        self._connections += 1

    def _take_picture(self, session: _Session, picture: av.VideoFrame, backoff: Backoff) -> None:
        if not self.connected:
            self._welcome(session, picture)
            backoff.succeeded()
        stream_s = session.decoder.time_of(picture)
        if session.pacer is not None:
            session.pacer.wait(stream_s)
        arrival = Arrival(
            self._planes(picture),
            None if stream_s is None else stream_s + session.shift_s,
            time.monotonic_ns(),
            self._number,
            self._connections - 1,
            self._taken(session),
            qp_of(picture),
        )
        self._number += 1
        self._inbox.put(arrival)
        self._put_ns = arrival.arrived_ns

    def _take_sound(self, session: _Session, packet: Any) -> None:
        """Keeps it for the next picture; where that is missing and the reader waits for it, sound goes alone.

        It never displaces a picture that waits to be read.
        """
        session.waiting.append(packet)
        if session.pacer is not None:
            session.pacer.hold(time_of(packet), _SOUND_AHEAD_S)
        if self.connected and time.monotonic_ns() - self._put_ns > _PATIENCE_NS and not self._inbox.depth:
            self._put_sound(session)

    def _put_sound(self, session: _Session) -> None:
        sounds = self._taken(session)
        self._inbox.put(Arrival((), None, time.monotonic_ns(), self._number, self._connections - 1, sounds, None))

    def _taken(self, session: _Session) -> tuple[Any, ...]:
        """Copies of all sound that waits."""
        copies = tuple(copy for packet in session.waiting for copy in self._detached(session, packet))
        session.waiting.clear()
        return copies

    def _planes(self, picture: av.VideoFrame) -> tuple[Plane, ...]:
        assert self.format is not None
        if not has_size_of(picture, self.format):
            if not self.format_changes:
                size = f"{picture.width}x{picture.height}"
                self._notes.say(f"its pictures are now {size}: scaled to {self.format.width}x{self.format.height}")
            self.format_changes += 1
            return self._letterbox.planes(picture)
        if has_layout_of(picture, self.format):
            return planes_of(picture, self.format.layout)
        return converted_planes(picture, self.format)

    def _detached(self, session: _Session, packet: Any) -> Iterator[Any]:
        """The packet as one of the first connection's sounds, if it is of the same kind."""
        number = session.decoder.sound_number(packet)
        if number < len(self.sounds) and _same_sound(packet.stream, self.sounds[number]):
            yield detached_packet(packet, self.sounds[number], session.shift_s)


@dataclass(frozen=True, slots=True)
class _Session:
    """What belongs to one connection; `waiting` is sound that no picture has taken along yet."""

    connection: Connection
    decoder: _Decoder
    pacer: _Pacer | None
    waiting: deque[Any] = field(default_factory=lambda: deque(maxlen=MAX_SOUNDS))

    @property
    def shift_s(self) -> Fraction:
        return Fraction(0) if self.pacer is None else self.pacer.shift_s


class _Decoder:
    """Pictures and packets of sound of one connection, in the order in which they came."""

    def __init__(self, connection: Connection, name: str, notes: Notes) -> None:
        self._connection = connection
        self._name = name
        self._video = connection.video
        self._video.codec_context.options = EXPORT
        self._order = {sound.index: number for number, sound in enumerate(connection.sounds)}
        self._has_clock = connection.container.format.name not in _CLOCKLESS
        self._time_base = fraction(self._video.time_base)
        self._deinterlacer = Deinterlacer(notes, self._time_base)

    def sound_number(self, packet: Any) -> int:
        return self._order[packet.stream_index]

    def time_of(self, picture: av.VideoFrame) -> Fraction | None:
        """What the stream says, in seconds of its own clock; None if it says nothing of worth."""
        if picture.pts is None or not self._has_clock:
            return None
        return picture.pts * fraction(picture.time_base)

    def events(self) -> Iterator[Any]:
        """Decoded pictures and packets of sound. Raises Lost or Over at the end, behind all pictures."""
        try:
            for packet in self._connection.packets():
                if packet.stream_index == self._video.index:
                    yield from self._pictures(packet)
                else:
                    yield packet
        except (Lost, Over):
            yield from self._pictures(None)
            yield from self._deinterlacer.flush()
            raise

    def _pictures(self, packet: Any) -> Iterator[av.VideoFrame]:
        """What is ready after a packet; after None, all that the decoder still holds."""
        try:
            pictures = self._video.codec_context.decode(packet)
        except av.error.FFmpegError:  # normal in the middle of a group of pictures, and after loss
            self._connection.corrupt += packet is not None
            return
        for picture in pictures:
            check_size(picture, self._name)
            picture.time_base = self._time_base  # PyAV takes it from the packet, and here may be none
            yield from self._deinterlacer.process(picture)


class _Pacer:
    """Holds back what comes faster than real time, such as a playlist's whole segments.

    `shift_s` is how much later than at first the stream is played, because it came too late once: what was late is
    shown then, and the rest has that much time in hand.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.shift_s = Fraction(0)
        self._stop = stop
        self._offset_s: Fraction | None = None

    def wait(self, stream_s: Fraction | None) -> None:
        """Returns when a picture of this time is due; at once if it has no time, or is late."""
        if stream_s is None:
            return
        if self._offset_s is None:
            self._offset_s = _now_s() - stream_s
        early_s = stream_s + self.shift_s + self._offset_s - _now_s()
        if abs(early_s) > _JUMP_S:
            self._offset_s -= early_s
        elif early_s > 0:
            self._stop.wait(float(early_s))
        elif early_s < -_LATE_S:
            self.shift_s -= early_s

    def hold(self, stream_s: Fraction | None, ahead_s: int) -> None:
        """Returns when something of this time, which isn't a picture, is early by no more than `ahead_s`."""
        if stream_s is None or self._offset_s is None:
            return
        early_s = stream_s + self.shift_s + self._offset_s - _now_s() - ahead_s
        if 0 < early_s <= _JUMP_S:
            self._stop.wait(float(early_s))


def _now_s() -> Fraction:
    return Fraction(time.monotonic_ns(), 10**9)


def _same_sound(stream: Any, template: Any) -> bool:
    mine, first = stream.codec_context, template.codec_context
    if mine is None or first is None:
        return False
    return (mine.name, mine.sample_rate, mine.layout.name) == (first.name, first.sample_rate, first.layout.name)
