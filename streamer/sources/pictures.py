"""From decoded pictures to formats and planes: what files and live streams have in common."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import av

from streamer.clock import fraction
from streamer.color import range_of
from streamer.convert import (
    chroma_location,
    has_alpha,
    mastering_of,
    picture_color,
    planar_equivalent,
    rgb_as_yuv,
)
from streamer.errors import SourceError
from streamer.frame import MAX_PIXELS, MAX_SIDE_PX, VideoFormat, without_range
from streamer.notes import Notes

log = logging.getLogger(__name__)

STILL_FORMATS = ("image2", "_pipe")
_CENTERED_CODECS = {"mjpeg", "mpeg1video", "webp"}
_MAX_RATE = 1000


def nominal_rate(stream: Any, *, probed: bool = True) -> Fraction | None:
    """Frames per second as the container says it, or guesses it; None if that makes no sense.

    `probed` is whether FFmpeg looked at enough pictures for a guess; else the decoder's header is the better source.
    """
    # Raw DV and some transport streams have an absurd average; the guess is better there.
    header = () if probed else (stream.codec_context.framerate,)
    rates = [fraction(rate) for rate in (stream.average_rate, *header, stream.guessed_rate) if rate]
    return next((rate for rate in rates if rate <= _MAX_RATE), None)


def describe(
    picture: av.VideoFrame, container: Any, stream: Any, rate: Fraction | None, name: str, notes: Notes
) -> VideoFormat:
    """The format of the frames that pictures like this one of `stream` become; `name` is what messages call it."""
    original = picture.format.name
    location = chroma_location(container, stream.index)
    if location == "unspecified" and stream.codec_context.name in _CENTERED_CODECS:
        location = "center"
    color = picture_color(picture, location)
    pix_fmt = planar_equivalent(original)
    if picture.format.is_rgb or picture.format.has_palette:
        color = rgb_as_yuv(color, still=container.format.name.endswith(STILL_FORMATS))
        log.info("%s is %s: enhanced as %s", name, original, pix_fmt)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if has_alpha(original) or tags.get("alpha_mode") == "1":
        notes.say("its alpha channel is left out, the picture is treated as opaque")
    sar = stream.sample_aspect_ratio
    return VideoFormat(
        picture.width,
        picture.height,
        pix_fmt,
        color,
        fraction(sar) if sar else Fraction(0),
        rate,
        picture.rotation,
        mastering_of(picture),
    )


def has_size_of(picture: av.VideoFrame, format: VideoFormat) -> bool:
    return (picture.width, picture.height) == (format.width, format.height)


def has_layout_of(picture: av.VideoFrame, format: VideoFormat) -> bool:
    """Whether the planes of `picture` are those of `format` without any conversion, whatever their size."""
    same_range = range_of(picture_color(picture, "")) == range_of(format.color)
    return same_range and without_range(picture.format.name) == format.pix_fmt


def check_size(picture: av.VideoFrame, name: str) -> None:
    """Raises SourceError for a picture beyond the limits."""
    width, height = picture.width, picture.height
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise SourceError(
            f"{name} has pictures of {width}x{height}; the limit is {MAX_SIDE_PX} pixels a side and "
            f"{MAX_PIXELS >> 20} megapixels"
        )
