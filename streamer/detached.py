"""Streams and packets that outlive the container they came from.

PyAV's streams and packets point into their container: after a reconnect that memory is gone, and two threads must not
write one packet. What crosses a thread or a reconnect is therefore copied.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av

from streamer.clock import fraction, ticks


def detached_streams(streams: Iterable[Any]) -> tuple[Any, ...]:
    """Streams with the codec parameters, tags and order of `streams`, for use as templates."""
    holder = av.open(io.BytesIO(), "w", format="null")  # it holds every codec; never written; streams keep it alive
    copies = []
    for stream in streams:
        copy = holder.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
        copies.append(copy)
    return tuple(copies)


def decoder_of(stream: Any) -> Any:
    """A decoder (av.CodecContext) with all the codec parameters of `stream`, detached or not, and nobody else's."""
    (copy,) = detached_streams((stream,))
    return copy.codec_context


def detached_packet(packet: Any, stream: Any, shift_s: Fraction = Fraction(0)) -> Any:
    """A copy of `packet` as one of `stream` (detached), `shift_s` seconds later. Side data stays behind."""
    unit = fraction(packet.time_base)
    shift = ticks(shift_s, unit) if shift_s else 0
    copy = av.Packet(bytes(packet))
    copy.stream = stream
    copy.time_base = unit
    copy.pts = None if packet.pts is None else packet.pts + shift
    copy.dts = None if packet.dts is None else packet.dts + shift
    copy.duration = packet.duration
    copy.is_keyframe = packet.is_keyframe
    return copy
