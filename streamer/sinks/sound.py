"""Sound beside live pictures: copied where the output takes its codec, else encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.clock import ticks
from streamer.notes import Notes
from streamer.sinks.outputs import Output

_BIT_RATE = 128_000


class Sounds:
    """The sound streams of one live output container, all moved in time by `shift_s` seconds.

    Takes detached packets only (see streamer.detached). Packets before the output's own beginning are left out;
    damaged ones are counted in `refused`. For one thread.
    """

    def __init__(self, container: Any, streams: Sequence[Any], output: Output, shift_s: Fraction, notes: Notes) -> None:
        self._shift_s = shift_s
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
        self._encoders = {stream.index: _Encoder(container, stream, output.sound or "") for stream in encoded}
        for stream in encoded:
            notes.say(f"its sound is encoded as {output.sound}, because {output.muxer} can't hold {_codec(stream)}")

    @property
    def refused(self) -> int:
        return self._refused + sum(encoder.refused for encoder in self._encoders.values())

    def mux(self, packets: Sequence[Any]) -> None:
        """Writes packets, which are used up by it."""
        for packet in packets:
            if packet.pts is None or packet.pts * packet.time_base + self._shift_s < 0:
                continue
            encoder, copy = self._encoders.get(packet.stream_index), self._copies.get(packet.stream_index)
            if encoder is not None:
                encoder.mux(packet, self._shift_s)
            elif copy is not None:
                self._copy(packet, copy)

    def _copy(self, packet: Any, copy: Any) -> None:
        shift = ticks(self._shift_s, packet.time_base)
        packet.pts += shift
        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
        packet.stream = copy
        try:
            self._container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError):
            self._refused += 1

    def finish(self) -> None:
        for encoder in self._encoders.values():
            encoder.finish()


class _Encoder:
    """Decodes the packets of one stream and encodes them in another codec."""

    def __init__(self, container: Any, stream: Any, codec: str) -> None:
        self.refused = 0
        self._container = container
        source = stream.codec_context
        self._decoder: Any = av.CodecContext.create(source.name, "r")
        if source.extradata:
            self._decoder.extradata = source.extradata
        self._decoder.sample_rate = source.sample_rate
        self._decoder.layout = source.layout
        rate = 48000 if codec == "libopus" else source.sample_rate
        layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        self._stream = container.add_stream(codec, rate=rate, layout=layout)
        self._stream.codec_context.bit_rate = _BIT_RATE

    def mux(self, packet: Any, shift_s: Fraction) -> None:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            self.refused += 1
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts += ticks(shift_s, frame.time_base)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))


def _is_copied(stream: Any, output: Output) -> bool:
    if output.sounds is None:
        return True
    # RTSP describes AAC by its header, which AAC out of a transport stream doesn't have.
    headless = _codec(stream) == "aac" and output.muxer == "rtsp" and not stream.codec_context.extradata
    return _codec(stream) in output.sounds and not headless


def _codec(stream: Any) -> str:
    return str(stream.codec_context.name).removesuffix("float").removesuffix("_latm")
