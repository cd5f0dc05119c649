"""Sound, subtitles, attachments and further pictures: copied bit for bit beside the enhanced pictures."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.clock import ticks

log = logging.getLogger(__name__)


class Companions:
    """The copied streams of one output container, all moved in time by `shift_s` seconds.

    Streams that the container can't hold are left out and named in the log. `refused` counts packets that the muxer
    did not take (damaged, or behind their predecessor in time); one bad packet doesn't end a stream.
    """

    def __init__(self, container: Any, name: str, streams: Iterable[Any], shift_s: Fraction) -> None:
        self.refused = 0
        self._container = container
        self._shift_s = shift_s
        self._copies = {}
        muxer = container.format.name
        for stream in streams:
            if _can_hold(muxer, stream):
                self._copies[stream.index] = _add_copy(container, stream)
            else:
                kind = getattr(stream.codec_context, "name", None) or stream.type
                log.warning("%s: %s can't hold stream #%d (%s); it is left out", name, muxer, stream.index, kind)

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
            except (av.error.InvalidDataError, av.error.ArgumentError):
                self.refused += 1
            finally:
                packet.stream, packet.pts, packet.dts, packet.duration, packet.time_base = before


def _add_copy(container: Any, stream: Any) -> Any:
    copy = container.add_stream_from_template(stream)
    copy.metadata.update(stream.metadata)
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
