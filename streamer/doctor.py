"""What works on this machine, what doesn't, and why."""

from __future__ import annotations

import os
import platform
from fractions import Fraction
from importlib import metadata
from typing import Any

import av
import av.error

import engines
import streamer
from onnx_models.cards import CardError, load_card, model_names, verify
from streamer.sinks.codecs import CODECS

_NVENC_SIZE = (256, 256)
_PACKAGES = (
    "av",
    "numpy",
    "onnx",
    "opencv-python-headless",
    "openvino",
    "onnxruntime",
    "imageio-ffmpeg",
    "pygame-ce",
    "pyvirtualcam",
)


def report() -> str:
    """The whole report as text."""
    sections = {"machine": _machine(), "packages": _packages(), "engines": engine_table()}
    sections |= {"NVIDIA GPU": "\n".join(engines.diagnose_gpu()), "models": _models(), "encoders": _encoders()}
    sections |= {"cameras and screens": _devices()}
    return "\n\n".join(f"{title}\n{_indented(text)}" for title, text in sections.items())


def engine_table() -> str:
    """One row per engine in order of preference: usable or not, version, and why."""
    lines = []
    for row in engines.available_engines():
        mark = "yes" if row.usable else "no "
        lines.append(f"{mark}  {row.name:20} {row.version or '-':12} {row.reason}")
    try:
        choice = engines.choose_engine("auto").row.name
    except engines.EngineError as error:
        choice = str(error)
    lines.append(f"auto chooses: {choice}")
    return "\n".join(lines)


def _machine() -> str:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.platform()}, Python {platform.python_version()}, {cpus} CPUs to use"


def _packages() -> str:
    lines = [f"streamer-enhancer {streamer.__version__}"]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} not installed")
    lines.append(f"FFmpeg {av.ffmpeg_version_info}")
    return "\n".join(lines)


def _models() -> str:
    lines = []
    for name in model_names():
        try:
            verify(load_card(name))
            lines.append(f"{name}: ok")
        except CardError as error:
            lines.append(f"{name}: {error}")
    return "\n".join(lines)


def _encoders() -> str:
    lines = []
    for name, encoders in CODECS.items():
        built = [encoder for encoder in encoders if encoder in av.codecs_available]
        notes = (f"{encoder}{_nvenc_note(encoder)}" for encoder in built)
        lines.append(f"{name}: {', '.join(notes) or 'not in this FFmpeg build'}")
    return "\n".join(lines)


def _devices() -> str:
    """What this FFmpeg build can capture with, of what our inputs use."""
    kinds = {"cameras": ("v4l2", "dshow", "avfoundation"), "screens": ("x11grab", "gdigrab", "avfoundation")}
    built = {name for known in av.formats_available for name in known.split(",")}
    lines = [f"{kind}: {', '.join(built & set(names)) or 'not in this FFmpeg build'}" for kind, names in kinds.items()]
    return "\n".join(lines)


def _nvenc_note(name: str) -> str:
    """Whether a GPU's encoder really opens; others need nothing but FFmpeg."""
    if "nvenc" not in name:
        return ""
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (*_NVENC_SIZE, "yuv420p", Fraction(1, 25))
    try:
        encoder.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f" (not here: {engines.explain(str(error)) or error})"
    return " (works here)"


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
