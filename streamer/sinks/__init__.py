"""Where frames go. `make_sink` finds the kind of sink that an OUTPUT names; opening happens later, on the pipeline's
deliver thread, when the first frame is there."""

from __future__ import annotations

from pathlib import PurePath

from streamer.errors import UsageError, public_url
from streamer.sinks.codecs import STILL_SUFFIXES, EncoderSettings
from streamer.stage import Sink

_LATER = ("rtsp:", "rtsps:", "rtmp:", "rtmps:", "srt:", "udp:", "rtp:", "hls:", "virtualcam:", "preview:")


def make_sink(url: str, settings: EncoderSettings | None = None, *, force: bool = False) -> Sink:
    """The sink that `url` names, not yet opened: `null:`, or a file, image or numbered sequence.

    Raises UsageError for an unknown kind or an existing file without `force`, SinkError for a folder that can't be
    written.
    """
    if url == "null:":
        from streamer.sinks.null import NullSink

        return NullSink()
    if url.startswith(_LATER) or "://" in url or url == "-":
        raise UsageError(
            f"can't write {public_url(url)}: live outputs are not supported by this version; give a file, an image, "
            "a numbered sequence such as frames/%05d.png, or null:"
        )
    if PurePath(url).suffix.lower() in STILL_SUFFIXES:
        from streamer.sinks.pictures import PictureSink

        return PictureSink(url, settings or EncoderSettings(), force=force)
    from streamer.sinks.media import MediaSink

    return MediaSink(url, settings or EncoderSettings(), force=force)
