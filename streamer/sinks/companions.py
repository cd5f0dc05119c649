"""Sound, subtitles, attachments and further pictures: copied bit for bit beside the enhanced pictures."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import av
import av.error
import av.stream

from streamer.clock import ticks
from streamer.notes import Notes

_TECHNICAL_TAGS = re.compile(
    r"encoder|duration|(major|minor)_(brand|version)|compatible_brands|_statistics.*|bps.*|number_of_.*|handler_name"
    r"|vendor_id|rotate|alpha_mode",
    re.IGNORECASE,
)


_UNSET_TIME = "1970-01-01T00:00:00"


class Companions:
    """The copied streams of one output container, all moved in time by `shift_s` seconds.

    Streams that the container can't hold are left out and named in the log. `refused` counts packets that the muxer
    did not take (damaged, or behind their predecessor in time); one bad packet doesn't end a stream.
    """

    def __init__(self, container: Any, streams: Iterable[Any], shift_s: Fraction, notes: Notes) -> None:
        self.refused = 0
        self._container = container
        self._shift_s = shift_s
        self._copies = {}
        self._kinds: Counter[str] = Counter()
        muxer = container.format.name
        for stream in streams:
            if _can_hold(muxer, stream):
                self._copies[stream.index] = _add_copy(container, stream)
                self._kinds[_kind(stream)] += 1
            else:
                kind = getattr(stream.codec_context, "name", None) or stream.type
                notes.say(f"{muxer} can't hold stream #{stream.index} ({kind}); it is left out")

    def missing_from(self, written: Any) -> Counter[str]:
        """What a finished file, opened for reading, doesn't hold as what it was: kinds of streams and their number."""
        found = Counter(_kind(stream) for stream in written.streams)
        return self._kinds - found

    def mux(self, packets: Iterable[Any]) -> None:
        """Writes packets of the source's streams; they are as before afterwards, so several sinks may copy them."""
        for packet in packets:
            copy = self._copies.get(packet.stream_index)
            if copy is None:
                continue
            before = (packet.stream, packet.pts, packet.dts, packet.duration, packet.time_base)
            shift = ticks(self._shift_s, packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.stream = copy
            try:
                self._container.mux(packet)
            except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError):
                self.refused += 1
            finally:
                packet.stream, packet.pts, packet.dts, packet.duration, packet.time_base = before


def own_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that say something of the content, without those that describe the file they came in."""
    return {
        key: value
        for key, value in metadata.items()
        if not _TECHNICAL_TAGS.fullmatch(key) and not (key == "creation_time" and value.startswith(_UNSET_TIME))
    }


def _kind(stream: Any) -> str:
    is_cover = stream.type == "video" and stream.disposition & av.stream.Disposition.attached_pic
    return "cover art" if is_cover else str(stream.type)


def _add_copy(container: Any, stream: Any) -> Any:
    copy = container.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(own_tags(stream.metadata))
    copy.disposition = stream.disposition
    return copy


def _can_hold(muxer: str, stream: Any) -> bool:
    """Whether a container of this kind takes a copy of `stream`, found out by writing a header into memory."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            _add_copy(trial, stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
