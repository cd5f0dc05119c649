"""A real-time AI video enhancer.

    import streamer

    streamer.enhance("in.mp4", "out.mp4", on_progress=print)

Importing this package starts nothing and loads no media, vision or inference library; names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from streamer.enhancer import EnhanceStage as EnhanceStage
    from streamer.errors import EnhanceError as EnhanceError
    from streamer.errors import SinkError as SinkError
    from streamer.errors import SourceError as SourceError
    from streamer.errors import StreamerError as StreamerError
    from streamer.errors import UsageError as UsageError
    from streamer.frame import ColorSpec as ColorSpec
    from streamer.frame import Frame as Frame
    from streamer.frame import VideoFormat as VideoFormat
    from streamer.image import ImageEnhancer as ImageEnhancer
    from streamer.image import enhance_image as enhance_image
    from streamer.imported import Imported as Imported
    from streamer.imported import export_model as export_model
    from streamer.imported import import_model as import_model
    from streamer.imported import remove_model as remove_model
    from streamer.job import Progress as Progress
    from streamer.job import Summary as Summary
    from streamer.job import choose_model as choose_model
    from streamer.job import enhance as enhance
    from streamer.pipeline import Pipeline as Pipeline
    from streamer.sinks import make_sink as make_sink
    from streamer.sinks.codecs import EncoderSettings as EncoderSettings
    from streamer.sources import make_source as make_source
    from streamer.stabiliser import StabiliseStage as StabiliseStage

_HOMES = {
    "ColorSpec": "frame",
    "EncoderSettings": "sinks.codecs",
    "EnhanceError": "errors",
    "EnhanceStage": "enhancer",
    "Frame": "frame",
    "ImageEnhancer": "image",
    "Imported": "imported",
    "Pipeline": "pipeline",
    "Progress": "job",
    "SinkError": "errors",
    "SourceError": "errors",
    "StabiliseStage": "stabiliser",
    "StreamerError": "errors",
    "Summary": "job",
    "UsageError": "errors",
    "VideoFormat": "frame",
    "choose_model": "job",
    "enhance": "job",
    "enhance_image": "image",
    "export_model": "imported",
    "import_model": "imported",
    "remove_model": "imported",
    "make_sink": "sinks",
    "make_source": "sources",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamer' has no attribute {name!r}")
    return getattr(import_module(f"streamer.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
