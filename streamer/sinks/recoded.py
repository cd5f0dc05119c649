"""A stream of sound that an output can't take as it is: decoded, encoded in another codec, and kept whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.clock import fraction, ticks
from streamer.detached import decoder_of
from streamer.notes import Notes
from streamer.sinks.silence import LATE, Continuity, silent_frame
from streamer.sync import SyncMeter

_BIT_RATE = 128_000
_PRIMING_S = Fraction(1, 20)
"""Silence at the beginning leaves room for what encoders put before their first sample, so that no time is negative."""
_CHUNK_SAMPLES = 4096
_LAYOUTS = {1: "mono", 6: "5.1"}
"""By the number of channels; everything else becomes stereo."""


def encoder_rate(codec: str, stream: Any) -> int:
    """The sampling rate, in Hz, at which `codec` encodes the sound of `stream`."""
    return 48000 if codec == "libopus" else int(stream.codec_context.sample_rate)


class RecodedSound:
    """Decodes the packets of one stream and encodes them in another codec, all moved in time by `shift_s` seconds.

    Holes become silence, see `Continuity`; what sound comes later than that is left out. Everything else keeps its
    time. `refused` counts packets that couldn't be decoded. PyAV's errors and ValueError pass through. For one thread.
    """

    def __init__(
        self, container: Any, stream: Any, codec: str, shift_s: Fraction, notes: Notes, sync: SyncMeter, *, live: bool
    ) -> None:
        self.refused = 0
        self._container, self._index = container, stream.index
        self._shift_s = shift_s
        self._notes, self._sync = notes, sync
        self._decoder = decoder_of(stream)
        rate = encoder_rate(codec, stream)
        layout = _LAYOUTS.get(stream.codec_context.layout.nb_channels, "stereo")
        self._stream = container.add_stream(codec, rate=rate, layout=layout)
        self._stream.codec_context.bit_rate = _BIT_RATE
        self._resampler: Any = None
        self._kind: tuple[object, ...] = ()
        self._decoded_to_s: Fraction | None = None
        """In the source's time; None: nothing was decoded yet."""
        self._rate = rate
        self._line = Continuity(_PRIMING_S, live=live)
        self._log = _SampleLog(self._unit)

    @property
    def _unit(self) -> Fraction:
        return Fraction(1, self._rate)

    def mux(self, packets: Iterable[Any], picture_s: Fraction) -> None:
        """Takes packets, which are used up by it, that came with, or before, the picture of this time."""
        self._line.follow(picture_s + self._shift_s)
        for packet in packets:
            self._decode(packet)
        self._fill(self._line.overdue_s())

    def finish(self) -> None:
        """Writes what is still held back, and says it if nothing could be decoded at all."""
        if self._decoded_to_s is not None:
            self._decode(None)
        elif self.refused:
            name = self._decoder.name
            self._notes.say(f"nothing of its sound ({name}) could be decoded: all {self.refused} packets are refused")
        for piece in self._resampler.resample(None) if self._resampler is not None else ():
            self._place(piece)
        self._fill(self._line.overdue_s(ends=True))
        if self._log.has_begun:  # FLAC has an empty packet in the end even if nothing went in
            self._mux(self._stream.encode(None))

    def _decode(self, packet: Any) -> None:
        """Takes a packet, or None for what the decoder still holds."""
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            self.refused += packet is not None
            return
        for frame in frames:
            for piece in self._converted(frame):
                self._place(piece)

    def _converted(self, frame: Any) -> list[Any]:
        """The frame as the encoder wants it, in its own good time: behind the last one if it says none."""
        begin_s = self._decoded_to_s if frame.pts is None else frame.pts * fraction(frame.time_base)
        if begin_s is None:
            return []
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:  # the resampler takes one kind only, and a stream that comes back may be of another
            context = self._stream.codec_context
            self._resampler = av.AudioResampler(context.format, context.layout, self._rate)
            self._kind = kind
        unit = Fraction(1, frame.sample_rate)
        self._decoded_to_s = begin_s + frame.samples * unit
        frame.pts, frame.time_base = ticks(begin_s, unit), unit
        return list(self._resampler.resample(frame))

    def _place(self, piece: Any) -> None:
        """Encodes a piece of sound where it belongs, with silence before it if that is needed."""
        source_s = piece.pts * fraction(piece.time_base)
        begin_s = ticks(source_s + self._shift_s, self._unit) * self._unit
        if not self._line.takes(begin_s):
            self._notes.say(LATE)
            return
        self._fill(begin_s)
        self._line.sound(begin_s, piece.samples * self._unit)
        self._encode(piece, begin_s, source_s)

    def _fill(self, until_s: Fraction) -> None:
        missing = ticks(self._line.hole(until_s), self._unit)
        while missing > 0:
            context, begin_s = self._stream.codec_context, self._line.end_s
            silence = silent_frame(context.format.name, context.layout.name, self._rate, min(_CHUNK_SAMPLES, missing))
            missing -= silence.samples
            self._line.silence(silence.samples * self._unit)
            self._encode(silence, begin_s, begin_s - self._shift_s)

    def _encode(self, piece: Any, begin_s: Fraction, source_s: Fraction) -> None:
        piece.pts, piece.time_base = ticks(begin_s, self._unit), self._unit
        self._log.fed(piece.samples, piece.pts, source_s)
        self._mux(self._stream.encode(piece))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            samples = self._stream.codec_context.frame_size or ticks(
                packet.duration * fraction(packet.time_base), self._unit
            )
            source_s = self._log.taken(samples, ticks(packet.pts * fraction(packet.time_base), self._unit))
            self._container.mux(packet)
            self._sync.sound(self._index, source_s, packet.pts * fraction(packet.time_base))


class _SampleLog:
    """Which time of the source's the samples of an encoded packet had, by counting them.

    That is independent of what the encoder says of its packets' times, which it makes up from the first one.
    """

    def __init__(self, unit: Fraction) -> None:
        self._unit = unit
        self._fed = 0
        self._taken: int | None = None
        self._pieces: deque[tuple[int, Fraction]] = deque()
        """Number of the first sample, and its time."""
        self._first: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything went into the encoder."""
        return self._first is not None

    def fed(self, samples: int, begin: int, source_s: Fraction) -> None:
        """So many samples went into the encoder, the first at `begin` of the output and `source_s` of the source."""
        if self._first is None:
            self._first = begin
        self._pieces.append((self._fed, source_s))
        self._fed += samples

    def taken(self, samples: int, begin: int) -> Fraction:
        """A packet of so many samples came out, which says that it begins at `begin` of the output."""
        assert self._first is not None
        if self._taken is None:
            self._taken = begin - self._first  # what encoders put before the first sample
        while len(self._pieces) > 1 and self._pieces[1][0] <= self._taken:
            self._pieces.popleft()
        number, source_s = self._pieces[0]
        found = source_s + (self._taken - number) * self._unit
        self._taken += samples
        return found
