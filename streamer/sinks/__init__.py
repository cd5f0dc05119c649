"""Where frames go. `make_sink` finds the kind of sink that an OUTPUT names; opening happens later, on the pipeline's
deliver thread, when the first frame is there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import PurePath

from streamer.errors import UsageError, public_url
from streamer.notes import Notes
from streamer.numbered import is_pattern
from streamer.sinks.codecs import STILL_SUFFIXES, EncoderSettings
from streamer.sinks.outputs import is_live_output, output_for
from streamer.stage import Sink


def make_sink(
    url: str,
    settings: EncoderSettings | None = None,
    *,
    force: bool = False,
    live: bool = True,
    is_only: bool = False,
    segment_s: Fraction | None = None,
) -> Sink:
    """The sink that `url` names, not yet opened: `null:`, a file, image, numbered sequence, window or live output.

    A numbered video such as `rec-%03d.mkv` is written in segments of `segment_s` seconds.

    Live outputs have a thread of their own; with `live` they skip frames that their peer doesn't take in time, without
    it they hold the pipeline back. An output that `is_only` ends the pipeline when its reader is gone for good. Raises
    UsageError for an unknown kind or an existing file without `force`, SinkError for a folder that can't be written.
    """
    settings = settings or EncoderSettings()
    if url == "null:":
        from streamer.sinks.null import NullSink

        return NullSink()
    if url == "preview:":
        from streamer.sinks.preview import PreviewSink

        return PreviewSink()
    if url.startswith("virtualcam:"):
        from streamer.sinks.virtualcam import VirtualCameraSink

        return VirtualCameraSink(url)
    if is_live_output(url):
        return _queued(url, settings, force=force, live=live, is_only=is_only)
    if PurePath(url).suffix.lower() in STILL_SUFFIXES:
        from streamer.sinks.pictures import PictureSink

        return PictureSink(url, settings, force=force)
    from streamer.sinks.media import MediaSink
    from streamer.sinks.segments import SegmentedSink

    if is_pattern(url):
        if segment_s is None:
            raise UsageError(f"{url} is a recording in numbered segments: say with --segment how many seconds each has")
        return SegmentedSink(url, settings, segment_s, force=force)
    return MediaSink(url, settings, force=force)


def _queued(url: str, settings: EncoderSettings, *, force: bool, live: bool, is_only: bool) -> Sink:
    from streamer.sinks.queued import QueuedSink
    from streamer.sinks.stream import StreamSink
    from streamer.sync import SyncMeter

    output = output_for(url, settings.codec, force=force)
    name = "standard output" if url == "-" else public_url(url)
    notes, sync = Notes(name), SyncMeter()
    return QueuedSink(
        name,
        lambda: StreamSink(url, output, settings, notes, sync),
        notes,
        sync,
        blocks=not live,
        reconnects=output.reconnects,
        listens=output.listens,
        is_only=is_only,
    )
