"""Sound, subtitles, attachments and further pictures: copied bit for bit beside the enhanced ones where that goes."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import av
import av.error
import av.stream

from streamer.clock import fraction, ticks
from streamer.notes import Notes
from streamer.sinks.recoded import RecodedSound, encoder_rate
from streamer.sync import SyncMeter

_TECHNICAL_TAGS = re.compile(
    r"encoder|duration|(major|minor)_(brand|version)|compatible_brands|_statistics.*|bps.*|number_of_.*|handler_name"
    r"|vendor_id|rotate|alpha_mode",
    re.IGNORECASE,
)

_ENCODERS = {"matroska": "flac", "webm": "libopus"}
"""Where the container's own choice isn't the best one."""
_UNSET_TIME = "1970-01-01T00:00:00"


class Companions:
    """The streams that go along in one output container, all moved in time by `shift_s` seconds.

    They are copied. Sound that the container can't hold, such as a camera's G.711 in Matroska, is encoded in a codec
    that it can, without loss where there is one; other such streams are left out; both is said. `refused` counts
    packets that neither muxer nor decoder took (damaged, or behind their predecessor in time); one bad packet doesn't
    end a stream. `sync` hears of the sound.
    """

    def __init__(
        self, container: Any, streams: Iterable[Any], shift_s: Fraction, notes: Notes, sync: SyncMeter
    ) -> None:
        self._refused = 0
        self._sync = sync
        self._container = container
        self._shift_s = shift_s
        self._copies = {}
        self._recoded: dict[int, RecodedSound] = {}
        self._kinds: Counter[str] = Counter()
        muxer = container.format.name
        for stream in streams:
            codec = getattr(stream.codec_context, "name", None)
            self._kinds[_kind(stream)] += 1
            if can_hold(muxer, stream):
                self._copies[stream.index] = _add_copy(container, stream)
            elif stream.type == "audio" and codec and (encoder := _encoder_for(container, stream)):
                notes.say(f"{muxer} can't hold stream #{stream.index} ({codec}); it is encoded as {encoder}")
                recoded = RecodedSound(container, stream, encoder, shift_s, notes, sync, live=False)
                self._recoded[stream.index] = recoded
            else:
                self._kinds[_kind(stream)] -= 1
                notes.say(f"{muxer} can't hold stream #{stream.index} ({codec or stream.type}); it is left out")

    @property
    def refused(self) -> int:
        return self._refused + sum(sound.refused for sound in self._recoded.values())

    def missing_from(self, written: Any) -> Counter[str]:
        """What a finished file, opened for reading, doesn't hold as what it was: kinds of streams and their number."""
        found = Counter(_kind(stream) for stream in written.streams)
        return self._kinds - found

    def mux(self, packets: Iterable[Any], picture_s: Fraction) -> None:
        """Writes packets of the source's streams, which came with the picture of this time.

        They are as before afterwards, so several sinks may copy them.
        """
        for packet in packets:
            recoded = self._recoded.get(packet.stream_index)
            if recoded is not None:
                recoded.mux((packet,), picture_s)
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
                self._measure(before, packet)
            except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError):
                self._refused += 1
            finally:
                packet.stream, packet.pts, packet.dts, packet.duration, packet.time_base = before

    def finish(self) -> None:
        """Writes what encoders still hold."""
        for recoded in self._recoded.values():
            recoded.finish()

    def _measure(self, before: tuple[Any, ...], packet: Any) -> None:
        stream, pts, _, _, time_base = before
        if stream.type == "audio" and pts is not None:
            source_s, muxed_s = pts * fraction(time_base), packet.pts * fraction(packet.time_base)
            self._sync.sound(stream.index, source_s, muxed_s)


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


def can_hold(muxer: str, stream: Any) -> bool:
    """Whether a container of this kind takes a copy of `stream`, found out by writing a header into memory."""
    return _takes(muxer, lambda trial: _add_copy(trial, stream))


def _encoder_for(container: Any, stream: Any) -> str | None:
    """What encodes sound for this container; None if nothing does."""
    muxer = container.format.name
    name = _ENCODERS.get(muxer) or container.default_audio_codec
    rate = encoder_rate(name, stream)
    takes = name != "none" and _takes(muxer, lambda trial: trial.add_stream(name, rate=rate, layout="stereo"))
    return name if takes else None


def _takes(muxer: str, add: Callable[[Any], object]) -> bool:
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            add(trial)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
