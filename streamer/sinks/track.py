"""The picture stream of one output container: encoder, timestamps, packets."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av

from streamer.clock import fraction, ticks
from streamer.convert import set_color
from streamer.frame import DEFAULT_RATE, Frame, VideoFormat
from streamer.sinks.codecs import Encoder, EncoderSettings, qscale_of, set_quantiser
from streamer.sinks.fitting import Fitter
from streamer.sync import SyncMeter

_LONGEST_DELAY = 1 << 30
"""More than any reordering needs, and still a difference that MP4 can hold, which is 31 bits."""
_VARIABLE_RATE = 0x400
"""FFmpeg's AVFMT_VARIABLE_FPS."""
_VARIABLE_INSIDE = {"hls"}
"""Muxers that don't say so, but write segments in a format that does."""


class PictureTrack:
    """Encodes frames into one container, all moved in time by `shift_s` seconds.

    Timestamps are kept exactly where the container can hold them, and each picture has its own; `moved_s` is the most
    that one had to move. `sync` hears of every packet. PyAV's errors and ValueError pass through.
    """

    def __init__(
        self,
        container: Any,
        encoder: Encoder,
        options: dict[str, str],
        fitter: Fitter,
        format: VideoFormat,
        settings: EncoderSettings,
        sync: SyncMeter,
    ) -> None:
        self.moved_s = Fraction(0)
        self.shift_s = Fraction(0)
        self._container = container
        self._encoder = encoder
        self._fitter = fitter
        self._rate = format.rate or DEFAULT_RATE
        self._tick: Fraction | None = None
        self._last_tick: int | None = None
        self._sync = sync
        self._encoding: dict[int, tuple[int, Fraction]] = {}
        """By pts: the duration, and the source's time."""
        stored = fitter.stored
        self.stream = container.add_stream(
            encoder.name,
            rate=self._rate,
            width=stored.width,
            height=stored.height,
            pix_fmt=stored.pix_fmt,
            options=options,
        )
        set_color(self.stream.codec_context, stored.color)
        set_quantiser(self.stream.codec_context, qscale_of(encoder, settings))
        if format.sar:
            self.stream.codec_context.sample_aspect_ratio = format.sar

    def start(self, time_base: Fraction) -> None:
        """Opens the encoder and writes the container's header; frames will count in `time_base` seconds."""
        muxer = self._container.format
        variable = muxer.flags & _VARIABLE_RATE or muxer.name in _VARIABLE_INSIDE
        coarse = self._encoder.constant_rate or not variable
        self._time_base = 1 / self._rate if coarse else time_base
        self.stream.codec_context.time_base = self._time_base
        self.stream.time_base = self._time_base
        self._container.start_encoding()
        # The header decides: GIF counts hundredths of a second, Matroska thousandths.
        self._tick = max(self._time_base, fraction(self.stream.time_base))

    def write(self, frame: Frame) -> None:
        """Encodes one frame; writes the header first, if that is still to be done."""
        if self._tick is None:
            self.start(frame.time_base)
        picture = self._fitter.picture(frame)
        self._stamp(picture, frame)
        self._mux(self.stream.encode(picture))

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        self._mux(_in_decoding_order(self.stream.encode(None)))

    def _stamp(self, picture: av.VideoFrame, frame: Frame) -> None:
        assert self._tick is not None
        time_s = frame.time + self.shift_s
        tick = ticks(time_s, self._tick)
        if self._last_tick is not None and tick <= self._last_tick:
            tick = self._last_tick + 1  # a coarser clock than the source's: each picture still has its own tick
        self._last_tick = tick
        self.moved_s = max(self.moved_s, abs(tick * self._tick - time_s))
        picture.pts = ticks(tick * self._tick, self._time_base)
        picture.time_base = self._time_base
        picture.duration = max(1, ticks(frame.duration * frame.time_base, self._time_base))
        self._encoding[picture.pts] = picture.duration, frame.time

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            known = self._encoding.pop(packet.pts, None)
            if known is not None:
                packet.duration = known[0]
            self._container.mux(packet)
            if known is not None:
                self._sync.picture(known[1], packet.pts * fraction(packet.time_base))


def _in_decoding_order(packets: list[Any]) -> list[Any]:
    """The last packets of a stream, with decoding times that make sense.

    libx265 gives arbitrary ones when a clip is shorter than its look-ahead. The n-th packet to be decoded can wait
    until the n-th picture in time minus the largest delay that reordering needs.
    """
    given = [packet.dts for packet in packets]
    if all(
        dts is not None and 0 <= packet.pts - dts < _LONGEST_DELAY for dts, packet in zip(given, packets, strict=True)
    ):
        return packets
    times = sorted(packet.pts for packet in packets)
    delay = max(time - packet.pts for time, packet in zip(times, packets, strict=True))
    for time, packet in zip(times, packets, strict=True):
        packet.dts = time - delay
    return packets
