"""Still images and numbered sequences of them: one file per frame."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from streamer.convert import set_color
from streamer.errors import SinkError, UsageError, reason_of
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.numbered import is_pattern, numbered
from streamer.sinks.codecs import (
    EncoderSettings,
    choose_encoder,
    encoder_options,
    is_codec_of,
    qscale_of,
    set_quantiser,
)
from streamer.sinks.fitting import Fitter
from streamer.sinks.target import Target
from streamer.stage import Media


class PictureSink:
    """Writes every frame as an image of its own: `frames/%05d.png` counts from 1, a plain name takes one frame.

    Each file appears complete or not at all: those of a sequence at once, a single one when the sink is closed. An
    existing file is an error without `force`, even in mid-sequence.
    """

    def __init__(self, path: str, settings: EncoderSettings, *, force: bool = False) -> None:
        self.name = path
        self.notes = Notes(path)
        self.counts: dict[str, int] = {}
        self._pattern = Path(os.path.abspath(path))
        self._is_sequence = is_pattern(self._pattern)
        self._settings = self._own(settings)
        self._force = force
        self._written = 0
        self._unfinished: Target | None = None
        Target(numbered(self._pattern, 1), force=force)  # says at once what can't work

    def open(self, format: VideoFormat, media: Media) -> None:
        self._encoder = choose_encoder(self._pattern.suffix.lower(), "", self._settings, format)
        self._options = encoder_options(self._encoder, self._settings, format)
        if format.rotation:
            self.notes.say(
                f"pictures are stored as they lie in the video: turn them by {format.rotation} degrees to view"
            )
        self._fitter = Fitter(self._encoder, self._settings, format, self.notes)

    def write(self, frame: Frame) -> None:
        if self._written and not self._is_sequence:
            stem, suffix = self._pattern.stem, self._pattern.suffix
            raise UsageError(
                f"{self.name} holds one picture but the input has more: write a numbered sequence such as "
                f"{stem}-%05d{suffix}"
            )
        target = Target(numbered(self._pattern, self._written + 1), force=self._force)
        try:
            target.partial.write_bytes(self._encoded(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            target.discard()
            raise SinkError(f"can't write {target.path}: {reason_of(error)}") from error
        self._written += 1
        self._unfinished = target
        if self._is_sequence:
            self.close()

    def close(self) -> None:
        """Gives a single picture its name; those of a sequence have theirs. Raises SinkError."""
        target, self._unfinished = self._unfinished, None
        if target is None:
            return
        try:
            target.publish()
        except OSError as error:
            target.discard()
            raise SinkError(f"can't write {target.path}: {reason_of(error)}") from error

    def abort(self) -> None:
        """Discards a single picture; of a sequence, the complete pictures stay."""
        target, self._unfinished = self._unfinished, None
        if target is not None:
            target.discard()

    def _own(self, settings: EncoderSettings) -> EncoderSettings:
        """The settings without those of another codec, which are for other outputs: its name says what a picture is."""
        suffix = self._pattern.suffix.lower()
        if settings.codec is None or is_codec_of(settings.codec, suffix):
            return settings
        self.notes.say(f"a {suffix} picture has a codec of its own: --codec, --crf and --preset don't apply to it")
        return replace(settings, codec=None, crf=None, preset=None)

    def _encoded(self, frame: Frame) -> bytes:
        stored = self._fitter.stored
        context: Any = av.CodecContext.create(self._encoder.name, "w")
        context.width, context.height, context.pix_fmt = stored.width, stored.height, stored.pix_fmt
        context.time_base = Fraction(1, 25)
        context.options = self._options
        set_color(context, stored.color)
        set_quantiser(context, qscale_of(self._encoder, self._settings))
        if stored.sar:
            context.sample_aspect_ratio = stored.sar
        picture = self._fitter.picture(frame)
        picture.pts = 0
        picture.time_base = context.time_base
        return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
