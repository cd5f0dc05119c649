"""Sound beside live pictures: copied where the output takes its codec, else encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from streamer.clock import fraction
from streamer.notes import Notes
from streamer.sinks.companions import can_hold
from streamer.sinks.copied import CopiedSound
from streamer.sinks.outputs import Output
from streamer.sinks.recoded import RecodedSound
from streamer.stage import Media
from streamer.sync import SyncMeter


class Sounds:
    """The sound streams of one live output container, all moved in time by `shift_s` seconds.

    Takes detached packets only (see streamer.detached). Packets before the output's own beginning are left out;
    damaged ones are counted in `refused`. Holes become silence, see RecodedSound and CopiedSound. For one thread.
    """

    def __init__(
        self, container: Any, media: Media, output: Output, shift_s: Fraction, notes: Notes, sync: SyncMeter
    ) -> None:
        self._shift_s = shift_s
        self._sounds: dict[int, CopiedSound | RecodedSound] = {}
        for stream in media.companions:
            if stream.type != "audio" or stream.codec_context is None:
                notes.say(f"stream #{stream.index} ({stream.type}) is left out of a live output")
            elif _is_copied(stream, output):
                self._sounds[stream.index] = CopiedSound(container, stream, shift_s, notes, sync, live=media.live)
            elif output.sound is not None:
                notes.say(f"its sound is encoded as {output.sound}, because {output.muxer} can't hold {_codec(stream)}")
                self._sounds[stream.index] = RecodedSound(
                    container, stream, output.sound, shift_s, notes, sync, live=media.live
                )
            else:
                notes.say(f"{output.muxer} holds no sound; it is left out")

    @property
    def refused(self) -> int:
        return sum(sound.refused for sound in self._sounds.values())

    def mux(self, packets: Sequence[Any], picture_s: Fraction) -> None:
        """Writes packets, which are used up by it, that came with the picture of this time of the source's."""
        timed = [
            packet
            for packet in packets
            if packet.pts is not None and packet.pts * fraction(packet.time_base) + self._shift_s >= 0
        ]
        for index, sound in self._sounds.items():
            sound.mux([packet for packet in timed if packet.stream_index == index], picture_s)

    def finish(self) -> None:
        for sound in self._sounds.values():
            sound.finish()


def _is_copied(stream: Any, output: Output) -> bool:
    if output.sounds is None:
        return can_hold(output.muxer, stream)
    # RTSP describes AAC by its header, which AAC out of a transport stream doesn't have.
    headless = _codec(stream) == "aac" and output.muxer == "rtsp" and not stream.codec_context.extradata
    return _codec(stream) in output.sounds and not headless


def _codec(stream: Any) -> str:
    return str(stream.codec_context.name).removesuffix("float").removesuffix("_latm")
