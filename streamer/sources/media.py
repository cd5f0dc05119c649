"""Files, still images and numbered sequences: anything that PyAV demuxes and decodes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.clock import Splice, Timeline, fraction, ticks, time_of
from streamer.convert import converted_planes, planar_equivalent, planes_of, side_data
from streamer.demux import packets_of
from streamer.errors import SourceError, public_url, reason_of
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.sources.deinterlace import Deinterlacer
from streamer.sources.opening import READ_S, companions_of, may_jump, open_container, pick_video
from streamer.sources.pictures import check_size, describe, has_layout_of, has_size_of, nominal_rate
from streamer.sources.quantiser import EXPORT, qp_of
from streamer.stage import Media

log = logging.getLogger(__name__)

_MAX_DEMUX_ERRORS = 100
_LONGEST_LAST_S = 60
_EARLY_S = Fraction(1, 2)
_PREROLL_S = Fraction(1, 10)
_LAG_S = Fraction(2)
"""How far behind its picture sound is looked for in a file of which only a part is read."""
_SEEK_BACK_S: tuple[int | None, ...] = (0, 2, 10, 60, None)
"""How far before the wanted start to seek until a picture at or before it is found; None: read from the beginning."""


class MediaSource:
    """Decodes the first video stream of a file and carries its other streams along as packets.

    Pictures leave in presentation order with their own timestamps. One picture is held back, so that a frame knows
    when the next begins (its exact duration) and the last one takes all remaining packets with it. Interlaced
    pictures are deinterlaced (bwdif, one frame per frame). A picture whose size or format differs from the first is
    converted to the first's. Corrupt packets are skipped and counted. Where the clock of a transport stream jumps, the
    first picture behind is a discontinuity.
    """

    live = False

    def __init__(
        self,
        url: str,
        *,
        start: Fraction = Fraction(0),
        duration: Fraction | None = None,
        rate: Fraction | None = None,
    ) -> None:
        self._url = url
        self._wanted_rate = rate
        self._name = public_url(url)
        self._start = start
        self._duration = duration
        self._interrupted = threading.Event()
        self._container: Any = None
        self._stream: Any = None
        self._companions: dict[int, Any] = {}
        self._frames: Iterator[Frame] = iter(())
        self._frames_total: int | None = None
        self._format: VideoFormat | None = None
        self._media = Media()
        self._origin = Fraction(0)
        self._end_seen = Fraction(0)
        self._packets_read = 0
        self._joints: list[Fraction] = []
        """Where recordings were joined, in seconds of the joined stream: times of pictures still to come."""
        self.counts: dict[str, int] = {}
        self.notes = Notes(self._name)

    @property
    def format(self) -> VideoFormat:
        if self._format is None:
            raise SourceError(f"{self._name} has no format before it is opened")
        return self._format

    @property
    def media(self) -> Media:
        return self._media

    @property
    def frames_total(self) -> int | None:
        """The container's count, or an estimate from its duration; None if it says neither."""
        return self._frames_total

    def open(self) -> None:
        try:
            self._open()
        except SourceError:
            self.close()
            if not self._interrupted.is_set():
                raise
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        if self._interrupted.is_set():
            return None
        try:
            return next(self._frames, None)
        except SourceError:
            if not self._interrupted.is_set():
                raise
            return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._frames = iter(())  # a walk that went on would read what is no longer there
        if self._container is not None:
            self._container.close()
            self._container = None

    # -- opening ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        for back_s in _SEEK_BACK_S if self._start else (None,):
            if self._container is None or back_s is None:
                self._open_container()
            if back_s is not None and not self._seek(back_s):
                continue
            head, events = self._first_picture()
            if back_s is None or (head and self._time_of(head[-1]) <= self._origin):
                break
        if not head:
            if self._interrupted.is_set():
                return  # ended before it began
            raise SourceError(self._no_picture())
        self._format = describe(head[-1], self._container, self._stream, self._rate, self._name, self.notes)
        self._media = self._describe_media(head[-1])
        self._frames_total = self._expected_frames()
        self._frames = self._walk(_handed_over(head, events))

    def _open_container(self) -> None:
        self.close()
        self._container = open_container(self._url, self._name, self.notes, self._wanted_rate)
        self._stream = stream = pick_video(self._container, self._name)
        stream.thread_type = "AUTO"
        stream.codec_context.options = EXPORT
        self._rate = nominal_rate(stream)
        self._time_base = fraction(stream.time_base)
        self._companions = companions_of(self._container, stream, self.notes)
        self._splice = Splice() if may_jump(self._container) else None
        self._joints.clear()
        self._timeline = Timeline(self._time_base, self._rate)
        self._deinterlacer = Deinterlacer(self.notes, self._time_base)
        if self._start:
            self._origin = Fraction(self._container.start_time or 0, av.time_base) + self._start

    def _seek(self, back_s: int) -> bool:
        try:
            self._container.seek(int((self._origin - back_s) * av.time_base), backward=True)
        except av.error.FFmpegError as error:
            log.info("%s can't seek (%s)", self._name, reason_of(error))
            return False
        self._timeline = Timeline(self._time_base, self._rate)
        self._splice = None if self._splice is None else Splice()
        self._joints.clear()
        return True

    def _first_picture(self) -> tuple[list[Any], Iterator[Any]]:
        """Everything up to the first picture, which comes last, and what follows; nothing if there is no picture."""
        head: list[Any] = []
        events = self._events()
        for event in events:
            head.append(event)
            if isinstance(event, av.VideoFrame):
                return head, events
        return [], events

    def _no_picture(self) -> str:
        damaged = self.counts.get("corrupt packets", 0)
        if self._start:
            return f"can't read {self._name} from {float(self._start):g} s on: it has no picture there; lower --start"
        detail = f"{damaged} damaged packets and nothing else" if damaged else "its video stream is empty"
        return f"can't decode {self._name}: {detail}; the file may be truncated or not a video"

    def _seconds(self) -> Fraction | None:
        """How long the pictures go on, as far as the container says."""
        stream, whole = self._stream, self._container.duration
        lengths = [Fraction(whole, av.time_base)] if whole else []
        if stream.duration:
            lengths.append(stream.duration * self._time_base)
        return min(lengths, default=None)

    def _expected_frames(self) -> int | None:
        seconds = self._seconds()
        if seconds is not None:
            seconds = max(Fraction(0), seconds - self._start)
        if self._duration is not None:
            seconds = self._duration if seconds is None else min(seconds, self._duration)
        return round(seconds * self._rate) if seconds and self._rate else self._stream.frames or None

    def _describe_media(self, first: av.VideoFrame) -> Media:
        matrix = side_data(first).get("DISPLAYMATRIX", b"")
        return Media(
            companions=tuple(self._companions.values()),
            metadata=dict(self._container.metadata),
            chapters=tuple(self._chapters()),
            video_metadata=dict(self._stream.metadata),
            video_disposition=int(self._stream.disposition),
            display_matrix=tuple(memoryview(matrix).cast("i")) if matrix else None,
            start=Fraction(0) if self._start else self._time_of(first),
        )

    def _chapters(self) -> Iterator[Any]:
        for chapter in self._container.chapters():
            unit = fraction(chapter["time_base"])
            shift = ticks(self._origin, unit)
            last = chapter["end"] - shift
            if self._duration is not None:
                last = min(last, ticks(self._duration, unit))
            first = max(0, chapter["start"] - shift)
            if first < last:
                yield {**chapter, "start": first, "end": last}

    # -- the walk: packets → pictures → frames ---------------------------------------------------------------------

    def _walk(self, events: Iterator[Any]) -> Iterator[Frame]:
        pending: tuple[av.VideoFrame, int] | None = None
        packets: list[Any] = []
        index = 0
        for event in events:
            if not isinstance(event, av.VideoFrame):
                packets.append(event)
                continue
            pts = ticks(self._time_of(event) - self._origin, self._time_base)
            if self._start and pts < 0:
                continue
            if self._is_past_end(pts * self._time_base):
                packets += self._behind_end(packets)
                break
            if pending is not None:
                yield self._frame(*pending, pts - pending[1], index, packets)
                packets, index = [], index + 1
            pending = (event, pts)
        if pending is None:
            if self._interrupted.is_set():
                return
            raise SourceError(self._no_picture())
        yield self._frame(*pending, self._last_duration(*pending), index, packets)
        self._say_counts()

    def _behind_end(self, known: list[Any]) -> list[Any]:
        """Packets that lie behind the last picture in the file, where the part's sound may not be complete yet.

        `known` packets came behind the last frame. Pictures are no longer decoded.
        """
        missing = {index for index, stream in self._companions.items() if stream.type == "audio"}
        missing -= {packet.stream.index for packet in known if self._is_past_end(self._begin_s(packet))}
        found: list[Any] = []
        packets = self._joined_packets()
        while missing and (packet := next(packets, None)) is not None:
            begin_s = self._begin_s(packet)
            if packet.stream.type in ("audio", "video") and self._is_past_end(begin_s, _LAG_S):
                break
            if self._is_past_end(begin_s):
                missing.discard(packet.stream.index)
            if packet.size and packet.stream.index in self._companions:
                found.append(packet)
        return found

    def _jumps(self) -> int:
        return self._splice.jumps if self._splice is not None else 0

    def _begins_anew(self, time_s: Fraction) -> bool:
        """Whether the picture at this time, of the joined stream, is the first behind a joint."""
        passed = [joint_s for joint_s in self._joints if joint_s <= time_s]
        for joint_s in passed:
            self._joints.remove(joint_s)
        return bool(passed)

    def _time_of(self, picture: av.VideoFrame) -> Fraction:
        """When the picture is shown, in seconds; the deinterlacer counts in a finer unit than the stream."""
        assert picture.pts is not None
        return picture.pts * fraction(picture.time_base)

    def _is_past_end(self, time_s: Fraction | None, by_s: Fraction = Fraction(0)) -> bool:
        if self._duration is None or time_s is None:
            return False
        return time_s - self._media.start >= self._duration + by_s

    def _last_duration(self, picture: av.VideoFrame, pts: int) -> int:
        """How long the last picture stays: up to the stream's end if the container knows it."""
        stream = self._stream
        if stream.duration and not self._start and self._duration is None and not self._lacks_packets():
            left = (stream.start_time or 0) + stream.duration - pts
            if 0 < left * self._time_base <= _LONGEST_LAST_S:
                return int(left)
        return ticks(picture.duration * fraction(picture.time_base), self._time_base) or self._timeline.interval

    def _frame(self, picture: av.VideoFrame, pts: int, duration: int, index: int, packets: list[Any]) -> Frame:
        format = self.format
        if has_size_of(picture, format) and has_layout_of(picture, format):
            planes = planes_of(picture, format.layout)
        else:
            if not has_size_of(picture, format) or planar_equivalent(picture.format.name) != format.pix_fmt:
                self._count("format changes")
            planes = converted_planes(picture, format)
        own_s = picture.duration * fraction(picture.time_base)
        self._end_seen = max(self._end_seen, pts * self._time_base + own_s)
        return Frame(
            planes=planes,
            format=format,
            pts=pts,
            time_base=self._time_base,
            duration=duration,
            index=index,
            captured_ns=time.monotonic_ns(),
            discontinuity=self._begins_anew(self._time_of(picture)),
            packets=tuple(packet for packet in packets if self._moved_into_part(packet)),
            qp=qp_of(picture),
        )

    def _moved_into_part(self, packet: Any) -> bool:
        """Counts the packet's time from the start position; whether it lies in the part asked for."""
        time_s = self._begin_s(packet)
        if time_s is None:
            return True
        if (self._start and time_s < 0) or self._is_past_end(time_s):
            return False
        if packet.is_discard and time_s < self._media.start - _PREROLL_S:
            return False  # hidden by an edit list, and more than a decoder needs to get going
        unit = fraction(packet.time_base)
        self._end_seen = max(self._end_seen, time_s + (packet.duration or 0) * unit)
        if shift := ticks(self._origin, unit):
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        return True

    def _begin_s(self, packet: Any) -> Fraction | None:
        """When the packet begins, in seconds from the start position; None if it doesn't say."""
        time_s, unit = time_of(packet), fraction(packet.time_base)
        return None if time_s is None else time_s - ticks(self._origin, unit) * unit

    def _events(self) -> Iterator[Any]:
        """Decoded pictures of the video stream and packets of the companions, in the order of the file."""
        for packet in self._joined_packets():
            if packet.stream.index == self._stream.index:
                self._packets_read += packet.size > 0
                for picture in self._decoded(packet):
                    yield from self._deinterlacer.process(picture)
            elif packet.size and packet.stream.index in self._companions:
                yield packet
        if not self._interrupted.is_set():
            yield from self._deinterlacer.flush()

    def _joined_packets(self) -> Iterator[Any]:
        """All packets until `interrupt`, on one clock."""
        for packet in self._packets():
            if self._interrupted.is_set():
                return
            if self._splice is not None and self._splice.join(packet) and packet.stream.index == self._stream.index:
                joint_s = time_of(packet)
                assert joint_s is not None, "a packet without times shows no joint"
                self._joints.append(joint_s)
            yield packet

    def _packets(self) -> Iterator[Any]:
        """All packets, then one empty packet per stream that drains its decoder; skips damage between packets."""
        errors = 0
        while True:
            try:
                for packet in packets_of(self._container, on_unknown=self._count_unknown):
                    errors = 0
                    yield packet
                return
            except av.error.InvalidDataError as error:
                errors += 1
                self._count("corrupt packets")
                if errors > _MAX_DEMUX_ERRORS:
                    raise SourceError(f"{self._name} is damaged beyond reading: {reason_of(error)}") from error
            except av.error.ExitError as error:
                raise SourceError(f"can't go on reading {self._name}: it was silent for {READ_S:g} s") from error
            except av.error.FFmpegError as error:
                raise SourceError(f"can't go on reading {self._name}: {reason_of(error)}") from error

    def _decoded(self, packet: Any) -> Iterator[av.VideoFrame]:
        try:
            for picture in packet.decode():
                check_size(picture, self._name)
                picture.pts = self._timeline.place(picture.pts, picture.dts)
                picture.time_base = self._time_base
                yield picture
        except av.error.MemoryError as error:
            raise SourceError(f"can't decode {self._name}: not enough memory for its pictures") from error
        except av.error.FFmpegError:
            self._count("corrupt packets")

    def _lacks_packets(self) -> bool:
        """Whether fewer packets came than the container's index promises."""
        return bool(self._packets_read < self._stream.frames)

    # -- what was unusual ------------------------------------------------------------------------------------------

    def _count_unknown(self) -> None:
        self._count("packets of streams that began later")

    def _count(self, event: str, number: int = 1) -> None:
        self.counts[event] = self.counts.get(event, 0) + number

    def _say_counts(self) -> None:
        seconds = self._seconds()
        whole = not self._start and self._duration is None and not self._interrupted.is_set()
        seen = self._end_seen - self._media.start
        complete = self._stream.frames and not self._lacks_packets()
        if self._jumps():
            seconds = None  # the container's is the distance between two clocks
        if whole and not complete and seconds is not None and seen < seconds - _EARLY_S:
            self.notes.say(f"ended early: {float(seen):.1f} of {float(seconds):.1f} s could be read")
        for event, number in (
            ("repaired timestamps", self._timeline.repaired),
            ("jumps in time", self._jumps()),
            ("deinterlaced frames", self._deinterlacer.deinterlaced),
        ):
            if number:
                self._count(event, number)
        for event, number in self.counts.items():
            if event != "deinterlaced frames":
                self.notes.say(f"{number} {event}")


def _handed_over(head: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    # Forgets what it gives, so that the first picture isn't kept alive.
    while head:
        yield head.pop(0)
    yield from rest
