"""Encoders for live outputs: no picture waits inside, every viewer may join within two seconds, colours are tagged."""

from __future__ import annotations

from dataclasses import replace

from streamer.color import matrix_of
from streamer.frame import DEFAULT_RATE, LIMITED, VideoFormat
from streamer.sinks.codecs import RAW, Encoder, EncoderSettings, choose_encoder, encoder_options

_KEYFRAME_S = 2
_CRF = 23.0
_FAST: dict[str, tuple[str | None, dict[str, str]]] = {
    "libx264": ("ultrafast", {"tune": "zerolatency", "x264-params": "repeat-headers=1"}),
    "libx265": ("ultrafast", {"tune": "zerolatency", "x265-params": "log-level=error:repeat-headers=1"}),
    "libsvtav1": ("12", {"svtav1-params": "pred-struct=1"}),
    "libvpx-vp9": ("8", {"deadline": "realtime", "lag-in-frames": "0"}),
    "h264_nvenc": ("p3", {"rc": "vbr", "tune": "ull", "zerolatency": "1"}),
    "hevc_nvenc": ("p3", {"rc": "vbr", "tune": "ull", "zerolatency": "1"}),
    "av1_nvenc": ("p3", {"rc": "vbr", "tune": "ull", "zerolatency": "1"}),
}
"""Encoder: its preset for live use, and the options that keep it from looking ahead."""


def live_encoder(settings: EncoderSettings, format: VideoFormat) -> tuple[Encoder, EncoderSettings, dict[str, str]]:
    """The encoder for a live output, its settings and its options. Raises UsageError, SinkError.

    Where the user asks for nothing: H.264, 8-bit 4:2:0, limited range, keyframes every two seconds.
    """
    if settings.codec in RAW:
        return Encoder("rawvideo", crf_option=None, preset_option=None), replace(settings, codec="rawvideo"), {}
    encoder = choose_encoder(".ts", "h264", replace(settings, codec=settings.codec or "h264"), format)
    preset, options = _FAST.get(encoder.name, (encoder.preset, encoder.options))
    color = matrix_of(format), LIMITED, format.color.chroma_location
    encoder = replace(encoder, preset=preset, options=encoder.options | options, fixed_color=color)
    if encoder.crf_option == "crf":
        encoder = replace(encoder, crf=max(_CRF, encoder.crf or 0))
    settings = replace(settings, pix_fmt=settings.pix_fmt or "yuv420p")
    keyframes = {"g": str(round(_KEYFRAME_S * (format.rate or DEFAULT_RATE)))}
    return encoder, settings, encoder_options(encoder, settings, format) | keyframes
