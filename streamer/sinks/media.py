"""Files in any container that PyAV muxes, still images and numbered sequences."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from streamer.clock import ticks
from streamer.color import RGB, range_of
from streamer.convert import TOLERANT, fill_picture, reformatted, set_color
from streamer.errors import SinkError, UsageError, reason_of
from streamer.frame import FULL, MAX_SIDE_PX, Frame, VideoFormat, layout_of
from streamer.sinks.codecs import (
    STILL_SUFFIXES,
    EncoderSettings,
    carries_mastering,
    choose_encoder,
    encoder_options,
    qscale_of,
    stored_pix_fmt,
)
from streamer.sinks.companions import Companions
from streamer.stage import Media

log = logging.getLogger(__name__)

_LONGEST_DELAY = 1 << 40
_UNHEARD_S = Fraction(1, 1000)
_FF_LAMBDA = 118
_QSCALE_FLAG = 2
_VARIABLE_RATE = 0x400
"""Bits of FFmpeg's: quantiser scale to lambda, AV_CODEC_FLAG_QSCALE, AVFMT_VARIABLE_FPS."""
_TECHNICAL_TAGS = re.compile(
    r"encoder|duration|(major|minor)_(brand|version)|compatible_brands|_statistics.*|bps.*|number_of_.*|handler_name"
    r"|vendor_id|rotate",
    re.IGNORECASE,
)


class MediaSink:
    """Encodes frames into one file, with the source's other streams copied beside them.

    The file grows under a temporary name beside its target and takes the target's name when it is complete; `abort`
    removes it. Timestamps are kept exactly where the container can hold them.
    """

    def __init__(self, path: str, settings: EncoderSettings, *, force: bool = False) -> None:
        self.name = path
        self._target = Path(os.path.abspath(path))
        self._settings = settings
        self._force = force
        self._container: Any = None
        self._is_sequence = "%" in self._target.name
        self._is_still = self._target.suffix.lower() in STILL_SUFFIXES
        self._partial = self._target
        if not self._is_sequence:
            self._partial = self._target.with_name(f".{self._target.stem}.{os.getpid()}.part{self._target.suffix}")
        self._written = 0
        self._check_target()

    # -- opening ---------------------------------------------------------------------------------------------------

    def open(self, format: VideoFormat, media: Media) -> None:
        try:
            self._container = self._create()
            self._media = media
            self._encoder = choose_encoder(
                self._target.suffix.lower(), self._container.default_video_codec, self._settings, format
            )
            self._stored = self._stored_format(format)
            self._shift = max(Fraction(0), -media.start)
            self._add_picture_stream(format)
            copied = () if self._is_still else media.companions
            self._companions = Companions(self._container, self.name, copied, self._shift)
            self._add_tags(media)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("create", error) from error
        self._time_base: Fraction | None = None
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._moved_s = Fraction(0)
        self._picture = av.VideoFrame(self._stored.width, self._stored.height, self._stored.pix_fmt)
        # With another pixel format, frames are filled in their own and then converted.
        self._own = None if self._same_planes(format) else av.VideoFrame(format.width, format.height, format.pix_fmt)
        self._format = format

    def _check_target(self) -> None:
        folder = self._target.parent
        if not folder.is_dir():
            raise SinkError(f"can't write {self.name}: there is no folder {folder}; create it first")
        if not os.access(folder, os.W_OK):
            raise SinkError(f"can't write {self.name}: no permission to create files in {folder}")
        if self._target.is_dir():
            raise UsageError(f"can't write {self.name}: it is a folder; add a file name")
        if not self._target.suffix:
            raise UsageError(f"can't write {self.name}: its ending says the format; add one such as .mp4 or .mkv")
        if self._is_sequence and not re.search(r"%0?\d*d", self._target.name):
            raise UsageError(f"can't write {self.name}: a numbered sequence needs a field such as %05d")
        taken = self._first_of_sequence() if self._is_sequence else self._target
        if taken.exists() and not self._force:
            raise UsageError(f"{taken} exists already: give another name, or --force to replace it")

    def _first_of_sequence(self) -> Path:
        return self._target.with_name(self._target.name % 1)

    def _create(self) -> Any:
        options: dict[str, str] = {}
        muxer = None
        if self._is_still:
            muxer = "image2"
            options = {"atomic_writing": "1"} if self._is_sequence else {"update": "1"}
        elif self._is_sequence:
            raise UsageError(f"can't write {self.name}: a numbered sequence is of pictures, such as frames/%05d.png")
        try:
            return av.open(str(self._partial), "w", format=muxer, options=options)
        except ValueError as error:
            raise UsageError(f"can't write {self.name}: no container format ends in {self._target.suffix}") from error

    def _stored_format(self, format: VideoFormat) -> VideoFormat:
        """The format that the encoder gets: its pixel format, even sides, and colour where its pictures fix it."""
        pix_fmt = stored_pix_fmt(self._encoder, self._settings, format)
        layout = layout_of(pix_fmt.replace("yuvj", "yuv"))
        color = format.color
        if layout is None and av.VideoFormat(pix_fmt, 16, 16).is_rgb:
            color = replace(color, matrix=RGB, range=FULL)
        elif self._encoder.fixed_color is not None:
            matrix, code_range = self._encoder.fixed_color
            color = replace(color, matrix=matrix, range=code_range)
        elif self._encoder.rgb:
            color = replace(color, range=FULL)
        width, height = format.width, format.height
        if self._encoder.even and (layout is None or layout.planes == 3):
            width += width & (1 if layout is None else layout.log2_chroma_w)
            height += height & (1 if layout is None else layout.log2_chroma_h)
        if (width, height) != (format.width, format.height):
            log.warning(
                "%s: padded to %dx%d, because %s needs even sides", self.name, width, height, self._encoder.name
            )
        if max(width, height) > MAX_SIDE_PX:
            raise SinkError(f"can't write {self.name}: {width}x{height} is beyond the limit of {MAX_SIDE_PX} a side")
        return replace(format, width=width, height=height, pix_fmt=pix_fmt, color=color)

    def _same_planes(self, format: VideoFormat) -> bool:
        same_color = (format.color.matrix, range_of(format.color)) == (
            self._stored.color.matrix,
            range_of(self._stored.color),
        )
        return self._stored.pix_fmt.replace("yuvj", "yuv") == format.pix_fmt and same_color

    def _add_picture_stream(self, format: VideoFormat) -> None:
        stored, encoder = self._stored, self._encoder
        rate = format.rate or Fraction(25)
        stream = self._container.add_stream(
            encoder.name,
            rate=rate,
            width=stored.width,
            height=stored.height,
            pix_fmt=stored.pix_fmt,
            options=encoder_options(encoder, self._settings, format),
        )
        context = stream.codec_context
        set_color(context, stored.color)
        if format.sar:
            context.sample_aspect_ratio = format.sar
        quantiser = qscale_of(encoder, self._settings)
        if quantiser is not None:
            context.flags |= _QSCALE_FLAG
            context.global_quality = round(quantiser * _FF_LAMBDA)
        self._stream = stream
        if format.mastering and not carries_mastering(encoder.name):
            log.warning("%s: %s can't carry the HDR mastering metadata; it is lost", self.name, encoder.name)
        if stored.pix_fmt.replace("yuvj", "yuv") != format.pix_fmt and not self._is_still:
            log.warning("%s: %s is stored as %s by %s", self.name, format.pix_fmt, stored.pix_fmt, encoder.name)

    def _add_tags(self, media: Media) -> None:
        self._container.metadata.update(_own_tags(media.metadata))
        self._stream.metadata.update(_own_tags(media.video_metadata))
        if media.video_disposition:
            self._stream.disposition = media.video_disposition
        if media.display_matrix is not None:
            self._stream.set_display_matrix(media.display_matrix)
        elif self._stored.rotation:
            self._stream.set_display_rotation(self._stored.rotation)
        if media.chapters:
            self._container.set_chapters([self._shifted(chapter) for chapter in media.chapters])

    def _shifted(self, chapter: Any) -> Any:
        shift = ticks(self._shift, chapter["time_base"])
        return {**chapter, "start": chapter["start"] + shift, "end": chapter["end"] + shift}

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, frame: Frame) -> None:
        if self._is_still and not self._is_sequence and self._written:
            raise UsageError(
                f"{self.name} holds one picture but the input has more: write a numbered sequence such as "
                f"{self._target.stem}-%05d{self._target.suffix}"
            )
        try:
            if self._time_base is None:
                self._start(frame)
            self._mux_encoded(self._stream.encode(self._picture_of(frame)))
            self._companions.mux(frame.packets)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("write", error) from error
        self._written += 1

    def _start(self, frame: Frame) -> None:
        """Opens the encoder and writes the header, now that the unit of time is known."""
        rate = self._format.rate or Fraction(25)
        coarse = self._encoder.constant_rate or not self._container.format.flags & _VARIABLE_RATE
        self._time_base = 1 / rate if coarse and not self._is_still else frame.time_base
        self._stream.codec_context.time_base = self._time_base
        self._stream.time_base = self._time_base
        self._container.start_encoding()

    def _picture_of(self, frame: Frame) -> av.VideoFrame:
        # An encoder that still holds the last picture makes make_writable() allocate a fresh one.
        if self._own is None:
            self._picture.make_writable()
            fill_picture(self._picture, frame.planes)
            picture = self._picture
        else:
            fill_picture(self._own, frame.planes)
            set_color(self._own, self._format.color)
            picture = reformatted(self._own, self._format, self._stored)
        set_color(picture, self._stored.color)
        self._stamp(picture, frame)
        return picture

    def _stamp(self, picture: av.VideoFrame, frame: Frame) -> None:
        assert self._time_base is not None
        time = frame.time + self._shift
        pts = ticks(time, self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1  # a coarser clock than the source's: each picture still has its own tick
        self._moved_s = max(self._moved_s, abs(pts * self._time_base - time))
        picture.pts = self._last_pts = pts
        picture.time_base = self._time_base
        picture.duration = max(1, ticks(frame.duration * frame.time_base, self._time_base))
        self._durations[pts] = picture.duration

    def _mux_encoded(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            duration = self._durations.pop(packet.pts, None)
            if duration is not None:
                packet.duration = duration
            self._container.mux(packet)

    # -- ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._container is None:
            return
        try:
            self._mux_encoded(_in_decoding_order(self._stream.encode(None)))
            self._container.close()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._error("finish", error) from error
        self._container = None
        self._publish()

    def _publish(self) -> None:
        if self._is_sequence:
            return
        if self._target.exists() and not self._force:
            raise SinkError(f"{self.name} was created by somebody else meanwhile; the result is in {self._partial}")
        os.replace(self._partial, self._target)
        if not self._is_still:
            self._say_losses()

    def _say_losses(self) -> None:
        """Reads the finished file back: what its container didn't take is said, not silently lost."""
        with av.open(str(self._target), **TOLERANT) as written:
            kept = {key.lower() for key in written.metadata}
            lost = [key for key in _own_tags(self._media.metadata) if key.lower() not in kept]
            chapters = len(self._media.chapters) - len(written.chapters())
        if lost:
            log.warning("%s: its container didn't keep the tags %s", self.name, ", ".join(sorted(lost)))
        if self._moved_s > _UNHEARD_S:
            log.warning("%s: its constant frame rate moved pictures by up to %.0f ms", self.name, 1000 * self._moved_s)
        if self._companions.refused:
            log.warning(
                "%s: %d packets of other streams were damaged and left out", self.name, self._companions.refused
            )
        if chapters > 0:
            log.warning("%s: its container didn't keep %d chapters", self.name, chapters)

    def abort(self) -> None:
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.close()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            log.debug("closing the discarded %s: %s", self.name, reason_of(error))
        self._remove_partial()

    def _remove_partial(self) -> None:
        if not self._is_sequence:
            self._partial.unlink(missing_ok=True)

    def _error(self, verb: str, error: BaseException) -> Exception:
        if isinstance(error, (SinkError, UsageError)):
            return error
        hint = ""
        if self.__dict__.get("_encoder") and "nvenc" in self._encoder.name:
            hint = "; NVENC needs an NVIDIA GPU and its driver: try --codec h264"
        return SinkError(f"can't {verb} {self.name}: {reason_of(error)}{hint}")


def _in_decoding_order(packets: list[Any]) -> list[Any]:
    """The last packets of a stream, with decoding times that make sense.

    libx265 gives arbitrary ones when a clip is shorter than its look-ahead. The n-th packet to be decoded can wait
    until the n-th picture in time minus the largest delay that reordering needs.
    """
    if all(packet.dts is not None and packet.pts - _LONGEST_DELAY < packet.dts <= packet.pts for packet in packets):
        return packets
    times = sorted(packet.pts for packet in packets)
    delay = max(time - packet.pts for time, packet in zip(times, packets, strict=True))
    for time, packet in zip(times, packets, strict=True):
        packet.dts = time - delay
    return packets


def _own_tags(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not _TECHNICAL_TAGS.fullmatch(key)}
