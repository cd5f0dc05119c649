"""Synthesised clips: small, exact, and odd in one known way each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from streamer.clock import fraction
from streamer.convert import fill_picture, planes_of
from streamer.frame import LIMITED, ColorSpec, Frame, Plane, VideoFormat, layout_of, without_range

HD = ColorSpec(1, 1, 1, LIMITED, "left")
SUBTITLES = "1\n00:00:00,100 --> 00:00:00,300\nhello\n\n2\n00:00:00,400 --> 00:00:00,700\nworld\n"


@dataclass
class Clip:
    """A recipe for a clip; every field is a way in which real files differ."""

    width: int = 64
    height: int = 48
    frames: int = 10
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    color: ColorSpec = HD
    sar: Fraction | None = None
    rotation: int = 0
    options: dict[str, str] = field(default_factory=lambda: {"crf": "10"})
    audio: str | None = None
    audio_rate: int = 48000
    audio_languages: Sequence[str] = ("eng",)
    sound_s: Fraction | None = None
    """How long there is sound; None: as long as there are pictures."""
    attachment: bytes | None = None
    chapters: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    interlaced: bool = False

    def write(self, path: Path) -> Path:
        """Encodes the clip. Frame k has `picture(k)` as its content."""
        with av.open(str(path), "w", options=self.container_options) as out:
            stream = self._add_video(out)
            sounds = [self._add_audio(out, language) for language in self.audio_languages if self.audio]
            if self.attachment is not None:
                out.add_attachment("font.ttf", "application/x-truetype-font", self.attachment)
            if self.chapters:
                out.set_chapters([_chapter(0, 0, 200, "one"), _chapter(1, 200, 400, "two")])
            out.metadata.update(self.metadata)
            for sound in sounds:
                _mux_sound(out, sound, self.frames / self.rate if self.sound_s is None else self.sound_s)
            for number, pts in enumerate(self._times()):
                out.mux(stream.encode(self._picture(number, pts)))
            out.mux(stream.encode(None))
        return path

    def _add_video(self, out: Any) -> Any:
        stream = out.add_stream(self.codec, rate=self.rate, width=self.width, height=self.height)
        stream.pix_fmt = self.pix_fmt
        context = stream.codec_context
        context.time_base = stream.time_base = self.time_base or 1 / self.rate
        context.color_primaries, context.color_trc = self.color.primaries, self.color.transfer
        context.colorspace, context.color_range = self.color.matrix, self.color.range
        options = dict(self.options)
        if self.color.chroma_location != "unspecified":
            options["chroma_sample_location"] = self.color.chroma_location
        if self.interlaced:
            options["x264-params"] = "tff=1"
        stream.options = options
        if self.sar is not None:
            context.sample_aspect_ratio = self.sar
        if self.rotation:
            stream.set_display_rotation(self.rotation)
        return stream

    def _add_audio(self, out: Any, language: str) -> Any:
        sound = out.add_stream(self.audio, rate=self.audio_rate)
        sound.codec_context.layout = "mono"
        if self.audio == "wmav2":
            sound.codec_context.bit_rate = 128_000  # it has no default
        sound.metadata["language"] = language
        return sound

    def _times(self) -> Iterable[int]:
        return range(self.frames) if self.pts is None else self.pts

    def _picture(self, number: int, pts: int) -> av.VideoFrame:
        picture = av.VideoFrame(self.width, self.height, self.pix_fmt)
        if layout_of(without_range(self.pix_fmt)) is None:
            rgb = np.stack(pattern(self.width, self.height, number, 8, 3), axis=-1)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24").reformat(format=self.pix_fmt)
        else:
            fill_picture(picture, picture_planes(self.pix_fmt, self.width, self.height, number))
        picture.pts = pts
        picture.time_base = self.time_base or 1 / self.rate
        return picture


def picture_planes(pix_fmt: str, width: int, height: int, number: int) -> tuple[Plane, ...]:
    """Smooth, moving planes with codes of the limited range."""
    layout = layout_of(without_range(pix_fmt))
    assert layout is not None
    made = []
    for index, (h, w) in enumerate(layout.shapes(width, height)):
        made.append(pattern(w, h, number + 3 * index, layout.bits, 1)[0].astype(layout.dtype))
    return tuple(made)


def pattern(width: int, height: int, number: int, bits: int, count: int) -> list[npt.NDArray[Any]]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    peak = 1 << bits
    return [
        (peak * (0.5 + 0.3 * np.sin(2 * math.pi * (x / 31 + y / 43 * (k + 1) + number / 17)))).astype(
            np.uint8 if bits == 8 else np.uint16
        )
        for k in range(count)
    ]


def make_frame(
    pix_fmt: str = "yuv420p", width: int = 32, height: int = 24, number: int = 0, color: ColorSpec = HD
) -> Frame:
    """A frame without a file."""
    format = VideoFormat(width, height, pix_fmt, color, Fraction(1), Fraction(25))
    return Frame(picture_planes(pix_fmt, width, height, number), format, number, Fraction(1, 25), 1, number, 0)


def decoded(path: Path) -> list[av.VideoFrame]:
    """All pictures of a file."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(path: Path) -> list[Fraction]:
    """Presentation times of all pictures, in seconds."""
    return [Fraction(picture.pts) * fraction(picture.time_base) for picture in decoded(path) if picture.pts is not None]


def planes(picture: av.VideoFrame) -> tuple[npt.NDArray[Any], ...]:
    """Copies of the planes of a decoded planar picture."""
    layout = layout_of(without_range(picture.format.name))
    assert layout is not None
    return tuple(plane.copy() for plane in planes_of(picture, layout))


def luma(picture: av.VideoFrame) -> npt.NDArray[Any]:
    """The first plane of a decoded planar picture."""
    return planes(picture)[0]


def copied_packets(path: Path, kind: str) -> list[list[tuple[bytes, Fraction | None]]]:
    """Payload and presentation time of every packet, for each stream of a kind."""
    with av.open(str(path)) as container:
        found: dict[int, list[tuple[bytes, Fraction | None]]] = {
            stream.index: [] for stream in container.streams if stream.type == kind
        }
        for packet in container.demux():
            if packet.stream.index in found and packet.size:
                when = None if packet.pts is None else packet.pts * fraction(packet.time_base)
                found[packet.stream.index].append((bytes(packet), when))
    return list(found.values())


def delayed_sound(source: Path, target: Path, delay_s: Fraction) -> Path:
    """A copy of `source` with the same times, but whose sound lies later in the file."""
    with av.open(str(source)) as whole, av.open(str(target), "w", options={"max_interleave_delta": "1"}) as out:
        copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in whole.streams}
        packets: list[Any] = [packet for packet in whole.demux() if packet.size]
        packets.sort(key=lambda packet: packet.dts * packet.time_base + delay_s * (packet.stream.type == "audio"))
        out.start_encoding()
        for packet in packets:
            packet.stream = copies[packet.stream_index]
            out.mux_one(packet)
    return target


def _chapter(number: int, start: int, end: int, title: str) -> Any:
    return {
        "id": number,
        "start": start,
        "end": end,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def _mux_sound(out: Any, sound: Any, seconds: Fraction) -> None:
    context = sound.codec_context
    rate = context.sample_rate
    total = int(seconds * rate)
    if not context.is_open:
        context.open()
    size = context.frame_size or 1024
    resampler = av.AudioResampler(format=context.format.name)
    for start in range(0, total, size):
        tone = np.sin(np.arange(start, start + size) * 2 * math.pi * 440 / rate)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = rate
        frame.pts = start
        frame.time_base = Fraction(1, rate)
        for piece in resampler.resample(frame):
            out.mux(sound.encode(piece))
    out.mux(sound.encode(None))


def stream_seconds(stream: Any) -> Fraction:
    """How long a stream says it is."""
    return Fraction(stream.duration * fraction(stream.time_base))


def chapter_starts(container: Any) -> list[Fraction]:
    """Where the chapters of an open file begin, in seconds."""
    return [Fraction(chapter["start"] * fraction(chapter["time_base"])) for chapter in container.chapters()]


def write_picture(path: Path, picture: av.VideoFrame) -> None:
    """As PNG, or as JPEG if the path says so."""
    codec = "mjpeg" if path.suffix == ".jpg" else "png"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as out:
        stream: Any = out.add_stream(codec, width=picture.width, height=picture.height, pix_fmt=picture.format.name)
        out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def palette_picture(indices: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """Of indices [height, width] and 256 opaque RGB colours [256, 3]."""
    opaque = np.append(np.full((256, 1), 255, np.uint8), colors, axis=1)
    arrays: Any = indices, opaque
    return av.VideoFrame.from_ndarray(arrays, "pal8")
