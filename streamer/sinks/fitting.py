"""Fitting frames to an encoder: its pixel format, even sides, and the colour that its pictures have by definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from streamer import ycbcr
from streamer.color import RGB, range_of
from streamer.convert import fill_picture, reformatted, set_color
from streamer.errors import SinkError
from streamer.frame import FULL, MAX_SIDE_PX, ColorSpec, Frame, Plane, VideoFormat, layout_of, without_range
from streamer.notes import Notes
from streamer.sinks.codecs import Encoder, EncoderSettings, stored_pix_fmt


class Fitter:
    """Turns frames of one format into pictures for one encoder; `stored` is the format that the encoder gets.

    Where the encoder takes the frames' own planes, they are copied once and nothing else happens to them. One picture
    is used again and again; an encoder that still holds it makes a fresh one necessary, which happens by itself.
    """

    def __init__(self, encoder: Encoder, settings: EncoderSettings, format: VideoFormat, notes: Notes) -> None:
        self.stored = _stored_format(encoder, settings, format)
        self._format = format
        if (self.stored.width, self.stored.height) != (format.width, format.height):
            size = f"{self.stored.width}x{self.stored.height}"
            notes.say(f"padded to {size}, because {encoder.name} needs even sides")
        self._same_planes = _same_planes(format, self.stored)
        self._is_exact = not self._same_planes and _is_exact(format, self.stored)
        # Padded first, and then converted: in two sizes libswscale would enlarge the whole picture.
        self._padded = replace(format, width=self.stored.width, height=self.stored.height)
        pix_fmt = self.stored.pix_fmt if self._same_planes else format.pix_fmt
        self._picture = av.VideoFrame(self.stored.width, self.stored.height, pix_fmt)

    @property
    def is_lossy(self) -> bool:
        """Whether the pixel format had to change."""
        return without_range(self.stored.pix_fmt) != self._format.pix_fmt

    def picture(self, frame: Frame) -> av.VideoFrame:
        """The frame as the encoder takes it, tagged with its colour; without a time. Valid until the next call."""
        if self._is_exact:
            picture = _exact(frame, self.stored)
        else:
            picture = self._picture
            picture.make_writable()
            fill_picture(picture, frame.planes)
            if not self._same_planes:
                set_color(picture, self._format.color)
                picture = reformatted(picture, self._padded, self.stored)
        set_color(picture, self.stored.color)
        return picture


def _stored_format(encoder: Encoder, settings: EncoderSettings, format: VideoFormat) -> VideoFormat:
    pix_fmt = stored_pix_fmt(encoder, settings, format)
    layout = layout_of(without_range(pix_fmt))
    width, height = format.width, format.height
    if encoder.even and (layout is None or layout.planes == 3):
        width += width & (1 if layout is None else layout.log2_chroma_w)
        height += height & (1 if layout is None else layout.log2_chroma_h)
    if max(width, height) > MAX_SIDE_PX:
        raise SinkError(f"can't encode {width}x{height}: the limit is {MAX_SIDE_PX} pixels a side")
    color = _stored_color(encoder, pix_fmt, format.color)
    return replace(format, width=width, height=height, pix_fmt=pix_fmt, color=color)


def _stored_color(encoder: Encoder, pix_fmt: str, color: ColorSpec) -> ColorSpec:
    if av.VideoFormat(pix_fmt, 16, 16).is_rgb:
        return replace(color, matrix=RGB, range=FULL)
    if encoder.fixed_color is not None:
        matrix, code_range, siting = encoder.fixed_color
        return replace(color, matrix=matrix, range=code_range, chroma_location=siting)
    return replace(color, range=FULL) if encoder.rgb else color


def _same_planes(format: VideoFormat, stored: VideoFormat) -> bool:
    same_matrix = format.color.matrix == stored.color.matrix or ycbcr.same_matrix(format, stored)
    same_color = same_matrix and range_of(format.color) == range_of(stored.color)
    return without_range(stored.pix_fmt) == format.pix_fmt and same_color


def _is_exact(format: VideoFormat, stored: VideoFormat) -> bool:
    """Whether `ycbcr` converts: gray, and where colours are computed, which takes libswscale as long."""
    is_gray = format.layout.planes == 1
    if stored.color.matrix == RGB:
        return (stored.width, stored.height) == (format.width, format.height) and (is_gray or ycbcr.knows(format))
    layout = layout_of(_computed(stored.pix_fmt))
    if layout is None:
        return False
    return is_gray or (layout.planes == 3 and ycbcr.knows(format, stored) and not ycbcr.same_matrix(format, stored))


def _computed(pix_fmt: str) -> str:
    """The format to compute, of which `pix_fmt` is another name or another order of bytes."""
    return without_range(pix_fmt).removesuffix("be") + ("le" if pix_fmt.endswith("be") else "")


def _exact(frame: Frame, stored: VideoFormat) -> av.VideoFrame:
    if stored.color.matrix == RGB:
        bits = 16 if max(part.bits for part in av.VideoFormat(stored.pix_fmt, 16, 16).components) > 8 else 8
        pix_fmt = "rgb24" if bits == 8 else "rgb48le"
        picture = av.VideoFrame.from_ndarray(_rgb(frame, bits), pix_fmt)
    else:
        pix_fmt = _computed(stored.pix_fmt)
        picture = av.VideoFrame(stored.width, stored.height, pix_fmt)
        inner = replace(stored, width=frame.format.width, height=frame.format.height, pix_fmt=pix_fmt)
        fill_picture(picture, _planes(frame, inner))
    return picture if without_range(stored.pix_fmt) == pix_fmt else picture.reformat(format=stored.pix_fmt)


def _planes(frame: Frame, target: VideoFormat) -> tuple[Plane, ...]:
    if frame.format.layout.planes == 3:
        return ycbcr.converted(frame.planes, frame.format, target)
    luma = ycbcr.rescaled(frame.planes[0], frame.format, target)
    chroma = target.layout.shapes(target.width, target.height)[1:]
    return luma, *(np.full(shape, 1 << (target.layout.bits - 1), target.layout.dtype) for shape in chroma)


def _rgb(frame: Frame, bits: int) -> npt.NDArray[Any]:
    if frame.format.layout.planes == 3:
        return ycbcr.to_rgb(frame.planes, frame.format, bits)
    full = replace(frame.format, pix_fmt="gray" if bits == 8 else "gray16le", color=ColorSpec(range=FULL))
    return ycbcr.rescaled(frame.planes[0], frame.format, full)[..., None].repeat(3, axis=2)
