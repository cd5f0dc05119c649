"""Sound beside live pictures: copied where the output takes its codec, else encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av.error

from streamer.clock import fraction, ticks
from streamer.notes import Notes
from streamer.sinks.outputs import Output
from streamer.sinks.recoded import RecodedSound
from streamer.sinks.sync import SyncMeter
from streamer.stage import Media


class Sounds:
    """The sound streams of one live output container, all moved in time by `shift_s` seconds.

    Takes detached packets only (see streamer.detached). Packets before the output's own beginning are left out;
    damaged ones are counted in `refused`. Where sound is encoded anew its holes become silence (see RecodedSound);
    copied sound keeps them. For one thread.
    """

    def __init__(
        self, container: Any, media: Media, output: Output, shift_s: Fraction, notes: Notes, sync: SyncMeter
    ) -> None:
        streams = media.companions
        self._shift_s, self._sync = shift_s, sync
        self._refused = 0
        copied, encoded = [], []
        for stream in streams:
            if stream.type != "audio" or stream.codec_context is None:
                notes.say(f"stream #{stream.index} ({stream.type}) is left out of a live output")
            elif _is_copied(stream, output):
                copied.append(stream)
            elif output.sound is not None:
                encoded.append(stream)
            else:
                notes.say(f"{output.muxer} holds no sound; it is left out")
        self._container = container
        self._copies = {stream.index: container.add_stream_from_template(stream) for stream in copied}
        self._encoders = {
            stream.index: RecodedSound(container, stream, output.sound or "", shift_s, notes, sync, live=media.live)
            for stream in encoded
        }
        for stream in encoded:
            notes.say(f"its sound is encoded as {output.sound}, because {output.muxer} can't hold {_codec(stream)}")

    @property
    def refused(self) -> int:
        return self._refused + sum(encoder.refused for encoder in self._encoders.values())

    def mux(self, packets: Sequence[Any], picture_s: Fraction) -> None:
        """Writes packets, which are used up by it, that came with the picture of this time of the source's."""
        timed = [
            packet
            for packet in packets
            if packet.pts is not None and packet.pts * fraction(packet.time_base) + self._shift_s >= 0
        ]
        for packet in timed:
            copy = self._copies.get(packet.stream_index)
            if copy is not None:
                self._copy(packet, copy)
        for index, encoder in self._encoders.items():
            encoder.mux([packet for packet in timed if packet.stream_index == index], picture_s)

    def _copy(self, packet: Any, copy: Any) -> None:
        index, source_s = packet.stream_index, packet.pts * fraction(packet.time_base)
        shift = ticks(self._shift_s, packet.time_base)
        packet.pts += shift
        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
        packet.stream = copy
        try:
            self._container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError):
            self._refused += 1
        else:
            self._sync.sound(index, source_s, packet.pts * fraction(packet.time_base))

    def finish(self) -> None:
        for encoder in self._encoders.values():
            encoder.finish()


def _is_copied(stream: Any, output: Output) -> bool:
    if output.sounds is None:
        return True
    # RTSP describes AAC by its header, which AAC out of a transport stream doesn't have.
    headless = _codec(stream) == "aac" and output.muxer == "rtsp" and not stream.codec_context.extradata
    return _codec(stream) in output.sounds and not headless


def _codec(stream: Any) -> str:
    return str(stream.codec_context.name).removesuffix("float").removesuffix("_latm")
