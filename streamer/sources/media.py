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

from streamer.clock import Timeline, fraction, ticks
from streamer.color import range_of
from streamer.convert import (
    chroma_location,
    has_alpha,
    mastering_of,
    picture_color,
    planar_equivalent,
    planes_of,
    rgb_as_yuv,
    side_data,
    to_planar,
)
from streamer.errors import SourceError, public_url, reason_of
from streamer.frame import MAX_PIXELS, MAX_SIDE_PX, Frame, VideoFormat
from streamer.sources.deinterlace import Deinterlacer
from streamer.sources.opening import companions_of, open_container, pick_video
from streamer.stage import Media

log = logging.getLogger(__name__)

_STILL_FORMATS = ("image2", "_pipe")
_MAX_DEMUX_ERRORS = 100
_LONGEST_LAST_S = 60
_CENTERED_CODECS = {"mjpeg", "mpeg1video", "webp"}


class MediaSource:
    """Decodes the first video stream of a file and carries its other streams along as packets.

    Pictures leave in presentation order with their own timestamps. One picture is held back, so that a frame knows
    when the next begins (its exact duration) and the last one takes all remaining packets with it. Interlaced
    pictures are deinterlaced (bwdif, one frame per frame). A picture whose size or format differs from the first is
    converted to the first's. Corrupt packets are skipped and counted.
    """

    live = False

    def __init__(self, url: str, *, start: Fraction = Fraction(0), duration: Fraction | None = None) -> None:
        self._url = url
        self._name = public_url(url)
        self._start = start
        self._duration = duration
        self._container: Any = None
        self._interrupted = threading.Event()
        self.counts: dict[str, int] = {}

    @property
    def format(self) -> VideoFormat:
        return self._format

    @property
    def media(self) -> Media:
        return self._media

    @property
    def frames_total(self) -> int | None:
        """The container's count, or an estimate from its duration; None if it says neither."""
        return self._frames_total

    def open(self) -> None:
        self._container = open_container(self._url, self._name)
        try:
            self._stream = pick_video(self._container, self._name)
            self._open_decoder()
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        if self._interrupted.is_set():
            return None
        return next(self._frames, None)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open_decoder(self) -> None:
        stream = self._stream
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        self._rate = fraction(rate) if rate else None
        self._time_base = fraction(stream.time_base)
        self._timeline = Timeline(self._time_base, self._rate)
        self._deinterlacer = Deinterlacer(self._name, self._time_base)
        self._origin = self._seek() if self._start else Fraction(0)
        self._companions = companions_of(self._container, stream)
        events = self._events()
        head: list[Any] = []
        for event in events:
            head.append(event)
            if isinstance(event, av.VideoFrame):
                break
        if not head or not isinstance(head[-1], av.VideoFrame):
            raise SourceError(self._no_picture())
        first = head[-1]
        self._format = self._describe(first)
        self._media = self._describe_media(first)
        self._frames_total = self._expected_frames()
        self._frames = self._walk(head, events)

    def _no_picture(self) -> str:
        damaged = self.counts.get("corrupt packets", 0)
        if self._start:
            return f"can't read {self._name} from {float(self._start):g} s on: it has no picture there; lower --start"
        detail = f"{damaged} damaged packets and nothing else" if damaged else "its video stream is empty"
        return f"can't decode {self._name}: {detail}; the file may be truncated or not a video"

    def _expected_frames(self) -> int | None:
        stream, seconds = self._stream, None
        if stream.duration:
            seconds = stream.duration * self._time_base
        elif self._container.duration:
            seconds = Fraction(self._container.duration, av.time_base)
        if seconds is not None:
            seconds = max(Fraction(0), seconds - self._start)
        if self._duration is not None:
            seconds = self._duration if seconds is None else min(seconds, self._duration)
        elif not self._start and stream.frames:
            return int(stream.frames)
        return round(seconds * self._rate) if seconds and self._rate else None

    def _seek(self) -> Fraction:
        begin = Fraction(self._container.start_time or 0, av.time_base) + self._start
        try:
            self._container.seek(int(begin * av.time_base), backward=True)
        except av.error.FFmpegError as error:
            log.info("%s can't seek (%s): reading up to the start position", self._name, reason_of(error))
        return begin

    # -- what the first picture tells ---------------------------------------------------------------------------

    def _describe(self, picture: av.VideoFrame) -> VideoFormat:
        stream, original = self._stream, picture.format.name
        location = chroma_location(self._container, stream.index)
        if location == "unspecified" and stream.codec_context.name in _CENTERED_CODECS:
            location = "center"
        color = picture_color(picture, location)
        pix_fmt = planar_equivalent(original)
        if picture.format.is_rgb or picture.format.has_palette:
            still = self._container.format.name.endswith(_STILL_FORMATS)
            color = rgb_as_yuv(color, still=still)
            log.info("%s is %s: enhanced as %s", self._name, original, pix_fmt)
        if has_alpha(original):
            log.warning("%s has an alpha channel: it is left out, the picture is treated as opaque", self._name)
        sar = stream.sample_aspect_ratio
        return VideoFormat(
            picture.width,
            picture.height,
            pix_fmt,
            color,
            fraction(sar) if sar else Fraction(0),
            self._rate,
            picture.rotation,
            mastering_of(picture),
        )

    def _describe_media(self, first: av.VideoFrame) -> Media:
        matrix = side_data(first).get("DISPLAYMATRIX", b"")
        start = (first.pts or 0) * fraction(first.time_base)
        return Media(
            companions=tuple(self._companions.values()),
            metadata=dict(self._container.metadata),
            chapters=tuple(self._chapters()),
            video_metadata=dict(self._stream.metadata),
            video_disposition=int(self._stream.disposition),
            display_matrix=tuple(memoryview(matrix).cast("i")) if matrix else None,
            start=Fraction(0) if self._start else start,
        )

    def _chapters(self) -> Iterator[Any]:
        for chapter in self._container.chapters():
            shift = ticks(self._origin, chapter["time_base"])
            if chapter["end"] > shift:
                yield {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}

    # -- the walk: packets → pictures → frames --------------------------------------------------------------------

    def _walk(self, head: list[Any], events: Iterator[Any]) -> Iterator[Frame]:
        pending: tuple[av.VideoFrame, int] | None = None
        packets: list[Any] = []
        index = 0
        for event in _chain(head, events):
            if not isinstance(event, av.VideoFrame):
                packets.append(event)
                continue
            pts = self._place(event)
            if pts is None:
                continue
            if self._is_past_end(pts):
                break
            if pending is not None:
                yield self._frame(*pending, pts - pending[1], index, packets)
                packets, index = [], index + 1
            pending = (event, pts)
        if pending is None:
            raise SourceError(self._no_picture())
        yield self._frame(*pending, self._last_duration(*pending), index, packets)
        self._say_counts(index + 1)

    def _place(self, picture: av.VideoFrame) -> int | None:
        """The picture's time in stream units from the start position, or None if it lies before."""
        pts = picture.pts
        if pts is not None:
            # Filters and repaired streams may count in another unit than the stream.
            pts = ticks(pts * fraction(picture.time_base) - self._origin, self._time_base)
            if self._start and pts < 0:
                return None
        return self._timeline.place(pts)

    def _is_past_end(self, pts: int) -> bool:
        return self._duration is not None and pts * self._time_base - self._media.start >= self._duration

    def _last_duration(self, picture: av.VideoFrame, pts: int) -> int:
        """How long the last picture stays: up to the stream's end if the container knows it."""
        stream = self._stream
        if stream.duration and not self._start and self._duration is None:
            left = (stream.start_time or 0) + stream.duration - pts
            if 0 < left * self._time_base <= _LONGEST_LAST_S:
                return int(left)
        return ticks(picture.duration * fraction(picture.time_base), self._time_base) or self._timeline.interval

    def _frame(self, picture: av.VideoFrame, pts: int, duration: int, index: int, packets: list[Any]) -> Frame:
        captured_ns = time.monotonic_ns()
        name = picture.format.name.replace("yuvj", "yuv")
        size = (picture.width, picture.height)
        same_size = size == (self._format.width, self._format.height)
        same_range = range_of(picture_color(picture, "")) == range_of(self._format.color)
        if not (same_size and name == self._format.pix_fmt and same_range):
            if not same_size or planar_equivalent(name) != self._format.pix_fmt:
                self._count("format changes")
            picture = to_planar(picture, self._format)
        return Frame(
            planes=planes_of(picture, self._format.layout),
            format=self._format,
            pts=pts,
            time_base=self._time_base,
            duration=duration,
            index=index,
            captured_ns=captured_ns,
            packets=tuple(self._shifted(packets)),
        )

    def _shifted(self, packets: list[Any]) -> Iterator[Any]:
        """The packets inside the part asked for, in its time."""
        for packet in packets:
            shift = ticks(self._origin, packet.time_base)
            when = packet.pts if packet.pts is not None else packet.dts
            if when is not None:
                if self._start and when < shift:
                    continue
                if self._duration is not None and self._is_past_end(
                    ticks((when - shift) * packet.time_base, self._time_base)
                ):
                    continue
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            yield packet

    def _events(self) -> Iterator[Any]:
        """Decoded pictures of the video stream and packets of the companions, in the order of the file."""
        for packet in self._packets():
            if self._interrupted.is_set():
                return
            if packet.stream.index == self._stream.index:
                for picture in self._decoded(packet):
                    yield from self._deinterlacer.process(picture)
            elif packet.size and packet.stream.index in self._companions:
                yield packet
        yield from self._deinterlacer.flush()

    def _packets(self) -> Iterator[Any]:
        """All packets, then one empty packet per stream that drains its decoder; skips damage between packets."""
        errors = 0
        while True:
            try:
                for packet in self._container.demux():
                    errors = 0
                    yield packet
                return
            except av.error.InvalidDataError as error:
                errors += 1
                self._count("corrupt packets")
                if errors > _MAX_DEMUX_ERRORS:
                    raise SourceError(f"{self._name} is damaged beyond reading: {reason_of(error)}") from error
            except av.error.FFmpegError as error:
                raise SourceError(f"can't go on reading {self._name}: {reason_of(error)}") from error

    def _decoded(self, packet: Any) -> Iterator[av.VideoFrame]:
        try:
            for picture in packet.decode():
                self._check_size(picture)
                yield picture
        except av.error.MemoryError as error:
            raise SourceError(f"can't decode {self._name}: not enough memory for its pictures") from error
        except av.error.FFmpegError:
            self._count("corrupt packets")

    def _check_size(self, picture: av.VideoFrame) -> None:
        width, height = picture.width, picture.height
        if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
            raise SourceError(
                f"{self._name} has pictures of {width}x{height}; the limit is {MAX_SIDE_PX} pixels a side and "
                f"{MAX_PIXELS >> 20} megapixels"
            )

    def _count(self, event: str, number: int = 1) -> None:
        self.counts[event] = self.counts.get(event, 0) + number

    def _say_counts(self, frames: int) -> None:
        whole = not self._start and self._duration is None and not self._interrupted.is_set()
        if whole and frames < self._stream.frames:
            log.warning("%s ended early: %d of %d frames could be read", self._name, frames, self._stream.frames)
        for event, number in (
            ("repaired timestamps", self._timeline.repaired),
            ("deinterlaced frames", self._deinterlacer.deinterlaced),
        ):
            if number:
                self._count(event, number)
        for event in ("corrupt packets", "format changes", "repaired timestamps"):
            if self.counts.get(event):
                log.warning("%s: %d %s", self._name, self.counts[event], event)


def _chain(head: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    # Hands over and forgets, so that the first pictures aren't kept alive.
    while head:
        yield head.pop(0)
    yield from rest
