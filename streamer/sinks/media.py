"""Video files, in any container that PyAV muxes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import av.error

from streamer.clock import ticks
from streamer.convert import TOLERANT
from streamer.errors import SinkError, StreamerError, UsageError, reason_of
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.sinks.codecs import (
    AVI_OPTIONS,
    Encoder,
    EncoderSettings,
    carries_mastering,
    choose_encoder,
    encoder_options,
)
from streamer.sinks.companions import Companions, own_tags
from streamer.sinks.fitting import Fitter
from streamer.sinks.target import Target
from streamer.sinks.track import PictureTrack
from streamer.stage import Media
from streamer.stats import AvSync
from streamer.sync import SyncMeter

log = logging.getLogger(__name__)

_MANY_FILES = {"dash", "hls", "segment", "stream_segment", "smoothstreaming", "tee", "image2"}
_SOUND_ONLY = {"none", "png", "mjpeg"}
_TOLERATED_S = Fraction(1, 1000)


class MediaSink:
    """Encodes frames into one file, with the source's other streams copied beside them.

    The file grows under a temporary name beside its target and takes the target's name when it is complete; `abort`
    removes it. Timestamps are kept exactly where the container can hold them, and each picture has its own; what was
    at `begin_s` seconds is at zero in the file (None: nothing moves, but what would be before zero).
    """

    def __init__(
        self,
        path: str,
        settings: EncoderSettings,
        *,
        force: bool = False,
        begin_s: Fraction | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.name = path
        self.notes = Notes(path) if notes is None else notes
        self._sync = SyncMeter()
        self._begin_s = begin_s
        self.counts: dict[str, int] = {}
        self._target = Target(path, force=force)
        self._settings = settings
        self._container: Any = None
        self._encoder: Encoder | None = None
        self._picture_s = Fraction(0)

    @property
    def av_sync(self) -> AvSync | None:
        return self._sync.av_sync

    # -- opening ---------------------------------------------------------------------------------------------------

    def open(self, format: VideoFormat, media: Media) -> None:
        try:
            self._container = self._create()
            suffix = self._target.path.suffix.lower()
            self._encoder = choose_encoder(suffix, self._container.default_video_codec, self._settings, format)
            self._fitter = Fitter(self._encoder, self._settings, format, self.notes)
            self._format, self._media = format, media
            self._shift_s = max(Fraction(0), -media.start) if self._begin_s is None else -self._begin_s
            self._add_picture_stream(self._encoder, suffix)
            self._companions = Companions(self._container, media.companions, self._shift_s, self.notes, self._sync)
            self._add_tags(media)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("create", error) from error

    def _create(self) -> Any:
        try:
            container = av.open(str(self._target.partial), "w")
        except ValueError as error:
            suffix = self._target.path.suffix
            raise UsageError(f"can't write {self.name}: no container format ends in {suffix}") from error
        if container.format.name in _MANY_FILES:
            raise UsageError(f"can't write {self.name}: {container.format.name} is many files; write one, such as .mp4")
        if container.default_video_codec in _SOUND_ONLY and self._settings.codec is None:
            raise UsageError(f"can't write {self.name}: {container.format.name} is for sound; choose .mp4 or .mkv")
        return container

    def _add_picture_stream(self, encoder: Encoder, suffix: str) -> None:
        options = encoder_options(encoder, self._settings, self._format)
        if suffix == ".avi":
            options |= AVI_OPTIONS
        self._track = PictureTrack(
            self._container, encoder, options, self._fitter, self._format, self._settings, self._sync
        )
        self._track.shift_s = self._shift_s
        if self._format.mastering and not carries_mastering(encoder.name):
            self.notes.say(f"{encoder.name} can't carry the HDR mastering metadata; it is lost")
        if self._fitter.is_lossy and self._settings.pix_fmt is None:
            stored = self._fitter.stored.pix_fmt
            self.notes.say(f"{self._format.pix_fmt} is stored as {stored} by {encoder.name}")

    def _add_tags(self, media: Media) -> None:
        self._container.metadata.update(own_tags(media.metadata))
        self._track.stream.metadata.update(own_tags(media.video_metadata))
        if media.video_disposition:
            self._track.stream.disposition = media.video_disposition
        if media.display_matrix is not None:
            self._track.stream.set_display_matrix(media.display_matrix)
        elif self._format.rotation:
            self._track.stream.set_display_rotation(self._format.rotation)
        if media.chapters:
            self._container.set_chapters([self._shifted(chapter) for chapter in media.chapters])

    def _shifted(self, chapter: Any) -> Any:
        shift = ticks(self._shift_s, chapter["time_base"])
        return {**chapter, "start": chapter["start"] + shift, "end": chapter["end"] + shift}

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, frame: Frame) -> None:
        try:
            self._track.write(frame)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("write", error) from error
        self._picture_s = frame.time
        self.mux(frame.packets)

    def mux(self, packets: Iterable[Any]) -> None:
        """Writes packets of the streams that go along, after the first frame. Raises SinkError."""
        try:
            self._companions.mux(packets, self._picture_s)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("write", error) from error

    # -- ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._container is None:
            return
        try:
            self._companions.finish()
            self._track.finish()
            self._container.close()
            self._container = None
            self._target.publish()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._error("finish", error) from error
        self._say_losses()

    def abort(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except (av.error.FFmpegError, OSError, ValueError) as error:
                log.debug("closing the discarded %s: %s", self.name, reason_of(error))
            self._target.discard()

    def _say_losses(self) -> None:
        """Reads the finished file back: what its container didn't take is said, not silently lost."""
        if self._track.moved_s > _TOLERATED_S:
            self.notes.say(f"its clock is coarse: pictures moved by up to {float(1000 * self._track.moved_s):.0f} ms")
        if self._companions.refused:
            self.notes.say(f"{self._companions.refused} damaged packets of other streams left out")
        try:
            with av.open(str(self._target.path), **TOLERANT) as written:
                kept = {key.lower() for key in written.metadata}
                chapters = len(self._media.chapters) - len(written.chapters())
                missing = self._companions.missing_from(written)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            log.info("%s can't be read back (%s)", self.name, reason_of(error))  # raw video has no header
            return
        lost = sorted(key for key in own_tags(self._media.metadata) if key.lower() not in kept)
        if lost:
            self.notes.say(f"its container didn't keep the tags {', '.join(lost)}")
        if chapters > 0:
            self.notes.say(f"its container didn't keep {chapters} chapters")
        if missing:
            kinds = ", ".join(f"{number} {kind}" for kind, number in missing.items())
            self.notes.say(f"its container didn't keep as such: {kinds}")

    def _error(self, verb: str, error: BaseException) -> BaseException:
        if isinstance(error, StreamerError):
            return error
        hint = ""
        if self._encoder is not None and "nvenc" in self._encoder.name:
            hint = "; NVENC needs an NVIDIA GPU and its driver: try --codec h264"
        elif "does not support" in str(error):
            hint = "; choose another --codec, or .mkv, which holds them all"
        return SinkError(f"can't {verb} {self.name}: {reason_of(error)}{hint}")
