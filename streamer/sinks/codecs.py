"""Which encoder for which output, and with what settings: an explicit table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from numbers import Rational
from typing import Any

import av

from streamer.color import BT601
from streamer.convert import has_alpha
from streamer.errors import SinkError, UsageError
from streamer.frame import FULL, HLG, LIMITED, PQ, Mastering, VideoFormat, layout_of, without_range

RAW = ("rawvideo", "y4m")
"""Raw video, and what it is called, too, where it goes to standard output."""
_QSCALE_FLAG, _FF_LAMBDA = 2, 118
"""FFmpeg's AV_CODEC_FLAG_QSCALE and the factor from a quantiser to its lambda."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What the user asked for; None means the table's default.

    `codec`: a name of CODECS (h264, hevc, …) or of an FFmpeg encoder; `crf`: constant quality, smaller is better, on
    the encoder's own scale; `preset`: the encoder's own name for speed against size; `pix_fmt`: the stored format.
    Raises UsageError for what no encoder has; what an encoder has is known when one is chosen.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None

    def __post_init__(self) -> None:
        if self.codec not in (None, *RAW, *CODECS) and not _is_video_encoder(str(self.codec)):
            raise _unknown_codec(str(self.codec))
        if self.crf is not None and not 0 <= self.crf < math.inf:
            raise UsageError(f"--crf {self.crf:g} is out of range: it is 0 or more")
        if self.pix_fmt is not None and not _is_pix_fmt(self.pix_fmt):
            raise UsageError(f"unknown pixel format {self.pix_fmt!r}: name one of FFmpeg's, such as yuv420p")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A row of the table: an FFmpeg encoder and how to ask it for visually lossless pictures.

    `crf_option` and `preset_option` are the encoder's names for these settings (None: it has none), `presets` the
    values of the latter (empty: not known here); `even` says that subsampled pictures need even sides, `constant_rate`
    that it counts time in frames of one length only, `rgb` that it stores RGB or full-range gray; `fixed_color` is the
    (matrix, range, siting) of its YUV pictures by definition.
    """

    name: str
    crf: float | None = None
    crf_option: str | None = "crf"
    crf_max: float = 63
    preset: str | None = None
    preset_option: str | None = "preset"
    presets: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    even: bool = False
    constant_rate: bool = False
    rgb: bool = False
    fixed_color: tuple[int, int, str] | None = None


_X26X = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_NVENC = tuple(f"p{number}" for number in range(1, 8))
_SVT = tuple(str(number) for number in range(14))

ENCODERS = {
    row.name: row
    for row in (
        Encoder("libx264", 18, crf_max=51, preset="veryfast", presets=_X26X, even=True),
        Encoder(
            "libx265",
            20,
            crf_max=51,
            preset="fast",
            presets=_X26X,
            options={"x265-params": "log-level=error"},
            even=True,
        ),
        Encoder("libsvtav1", 25, preset="8", presets=_SVT, even=True),
        Encoder("libaom-av1", 25, preset="6", preset_option="cpu-used", options={"row-mt": "1"}),
        Encoder("libvpx-vp9", 24, preset="5", preset_option="cpu-used", options={"row-mt": "1", "deadline": "good"}),
        Encoder("ffv1", crf_option=None, preset_option=None, options={"level": "3", "slicecrc": "1"}),
        Encoder("h264_nvenc", 19, "cq", 51, "p5", presets=_NVENC, options={"rc": "vbr", "tune": "hq"}, even=True),
        Encoder("hevc_nvenc", 20, "cq", 51, "p5", presets=_NVENC, options={"rc": "vbr", "tune": "hq"}, even=True),
        Encoder("av1_nvenc", 25, "cq", 51, "p5", presets=_NVENC, options={"rc": "vbr", "tune": "hq"}, even=True),
        Encoder("mpeg4", 2, "qscale", 31, preset_option=None, constant_rate=True),
        Encoder("mpeg2video", 2, "qscale", 31, preset_option=None, constant_rate=True),
        Encoder("mjpeg", 2, "qscale", 31, preset_option=None, fixed_color=(BT601, FULL, "center")),
        Encoder("prores_ks", crf_option=None, preset="hq", preset_option="profile"),
        Encoder("libwebp", 95, "quality", 100, preset_option=None, fixed_color=(BT601, LIMITED, "center")),
        *(Encoder(name, crf_option=None, preset_option=None, rgb=True) for name in ("png", "tiff", "bmp", "gif")),
    )
}

CODECS = {
    "h264": ("libx264", "libopenh264"),
    "avc": ("libx264", "libopenh264"),
    "x264": ("libx264",),
    "hevc": ("libx265",),
    "h265": ("libx265",),
    "x265": ("libx265",),
    "av1": ("libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
    "ffv1": ("ffv1",),
    "prores": ("prores_ks",),
    "mjpeg": ("mjpeg",),
    "mpeg4": ("mpeg4",),
    "nvenc": ("h264_nvenc",),
    "hevc-nvenc": ("hevc_nvenc",),
    "av1-nvenc": ("av1_nvenc",),
}
"""Names for `--codec`, each with the FFmpeg encoders that make it, best first."""

_BY_SUFFIX = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".avi", ".ts", ".m2ts", ".mts", ".flv", ".3gp"), "h264"),
    ".webm": "vp9",
    ".nut": "ffv1",
    ".jpg": "mjpeg",
    ".jpeg": "mjpeg",
    ".png": "png",
    ".webp": "libwebp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".gif": "gif",
}
AVI_OPTIONS = {"bf": "0"}
"""AVI has decoding times only: pictures that are reordered would be shown late."""
STILL_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


def choose_encoder(suffix: str, fallback: str, settings: EncoderSettings, format: VideoFormat) -> Encoder:
    """The encoder for a file ending in `suffix`: the one asked for, else the table's, else the container's own.

    HDR pictures (PQ, HLG) become HEVC where H.264 would be the default, because no player expects them in H.264.
    Raises UsageError for an unknown name, SinkError if FFmpeg was built without it.
    """
    wanted = _BY_SUFFIX.get(suffix, fallback) if settings.codec is None else settings.codec
    if settings.codec is None and wanted == "h264" and format.color.transfer in (PQ, HLG) and suffix != ".avi":
        wanted = "hevc"
    for name in CODECS.get(wanted, (wanted,)):
        if _is_video_encoder(name):
            return ENCODERS.get(name) or Encoder(name, crf_option=None, preset_option=None)
    if settings.codec is not None and wanted not in CODECS:
        raise _unknown_codec(wanted)
    raise SinkError(f"this FFmpeg build has no encoder for {wanted!r}: choose another --codec or output format")


def is_codec_of(name: str, suffix: str) -> bool:
    """Whether a codec's or encoder's name means what a file ending in `suffix` is encoded with by default."""
    own = _BY_SUFFIX.get(suffix)
    return name == own or CODECS.get(name, (name,)) == CODECS.get(own or "", (own,))


def _unknown_codec(name: str) -> UsageError:
    return UsageError(f"unknown codec {name!r}: choose one of {', '.join(CODECS)}, or name an FFmpeg encoder")


def _is_pix_fmt(name: str) -> bool:
    try:
        av.VideoFormat(name)
    except ValueError:
        return False
    return True


@cache
def _is_video_encoder(name: str) -> bool:
    try:
        return av.Codec(name, "w").type == "video"
    except ValueError:
        return False


def encoder_options(encoder: Encoder, settings: EncoderSettings, format: VideoFormat) -> dict[str, str]:
    """FFmpeg options for `encoder`. Raises UsageError for a setting that it doesn't have or that is out of range."""
    options = dict(encoder.options)
    if settings.crf is not None and encoder.crf_option is None:
        raise UsageError(f"--crf doesn't apply to {encoder.name}: leave it out or choose another --codec")
    crf = encoder.crf if settings.crf is None else settings.crf
    if crf is not None and encoder.crf_option is not None:
        if not (math.isfinite(crf) and 0 <= crf <= encoder.crf_max):
            raise UsageError(f"--crf {crf:g} is out of range: {encoder.name} takes 0 to {encoder.crf_max:g}")
        if encoder.crf_option != "qscale":
            options[encoder.crf_option] = f"{crf:g}"
    if settings.preset is not None and encoder.preset_option is None:
        raise UsageError(f"--preset doesn't apply to {encoder.name}: leave it out or choose another --codec")
    preset = encoder.preset if settings.preset is None else settings.preset
    if encoder.presets and preset not in encoder.presets:
        raise UsageError(f"unknown preset {preset!r}: {encoder.name} takes {', '.join(encoder.presets)}")
    if preset is not None and encoder.preset_option is not None:
        options[encoder.preset_option] = preset
    if format.color.chroma_location != "unspecified":
        options["chroma_sample_location"] = format.color.chroma_location
    if format.mastering is not None:
        key, value = _mastering_option(encoder.name, format.mastering)
        if value:
            options[key] = ":".join(filter(None, (options.get(key), value)))
    return options


def qscale_of(encoder: Encoder, settings: EncoderSettings) -> float | None:
    """The fixed quantiser for encoders of the MPEG family, else None."""
    if encoder.crf_option != "qscale":
        return None
    return encoder.crf if settings.crf is None else settings.crf


def set_quantiser(context: Any, quantiser: float | None) -> None:
    """Tells a codec context to encode at a fixed quantiser."""
    if quantiser is not None:
        context.flags |= _QSCALE_FLAG
        context.global_quality = round(quantiser * _FF_LAMBDA)


def carries_mastering(encoder: str) -> bool:
    """Whether HDR metadata reaches the stream that `encoder` makes."""
    return encoder in ("libx264", "libx265", "libsvtav1")


def _mastering_option(encoder: str, mastering: Mastering) -> tuple[str, str]:
    """HDR10 metadata in an encoder's own words; chromaticities come as R, G, B, white and leave as G, B, R, white."""
    av1 = encoder == "libsvtav1"
    parts = []
    if mastering.primaries and mastering.luminance:
        red, green, blue, white = mastering.primaries
        low, high = mastering.luminance
        xy, cd = (1, 1) if av1 else (50000, 10000)
        points = "".join(
            f"{letter}({_number(x * xy)},{_number(y * xy)})"
            for letter, (x, y) in zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True)
        )
        name = "master-display" if encoder == "libx265" else "mastering-display"
        parts.append(f"{name}={points}L({_number(high * cd)},{_number(low * cd)})")
    if mastering.max_cll is not None:
        name = {"libx264": "cll", "libx265": "max-cll"}.get(encoder, "content-light")
        parts.append(f"{name}={mastering.max_cll},{mastering.max_fall or 0}")
    key = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(encoder, "")
    return key, ":".join(parts) if key else ""


def _number(value: float | Rational) -> str:
    return f"{float(value):.4f}".rstrip("0").rstrip(".")


def stored_pix_fmt(encoder: Encoder, settings: EncoderSettings, format: VideoFormat) -> str:
    """The pixel format to encode: the frames' own if the encoder takes it, else the one that loses least.

    Raises UsageError if `settings.pix_fmt` isn't one of the encoder's.
    """
    supported = [entry.name for entry in av.Codec(encoder.name, "w").video_formats or ()]
    if encoder.rgb:
        supported = [name for name in supported if av.VideoFormat(name, 16, 16).is_rgb or name.startswith("gray")]
    if settings.pix_fmt is not None:
        if supported and settings.pix_fmt not in supported:
            raise UsageError(f"{encoder.name} can't store {settings.pix_fmt!r}: it takes {', '.join(supported)}")
        return settings.pix_fmt
    if not supported or format.pix_fmt in supported:
        return format.pix_fmt
    return min(supported, key=lambda name: _loss(name, format))


def _loss(candidate: str, format: VideoFormat) -> tuple[int, ...]:
    """How much of `format` is lost in `candidate`: unusable, color, depth, chroma detail, conversion, spare bits."""
    have, wanted = av.VideoFormat(candidate, 16, 16), format.layout
    unusable = have.has_palette or has_alpha(candidate) or have.is_bit_stream or not have.components
    depth = max((part.bits for part in have.components), default=0)
    return (
        int(unusable),
        int(wanted.planes == 3 and len(have.components) < 3),
        max(0, wanted.bits - depth),
        have.chroma_width(16) < 16 >> wanted.log2_chroma_w if wanted.planes == 3 else 0,
        have.chroma_height(16) < 16 >> wanted.log2_chroma_h if wanted.planes == 3 else 0,
        int(layout_of(without_range(candidate)) is None),
        len(have.components),
        depth,
        have.chroma_width(16) + have.chroma_height(16),
    )
