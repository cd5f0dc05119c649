"""Where frames come from. `make_source` finds the kind of source that an INPUT names; opening happens later, on the
pipeline's capture thread."""

from __future__ import annotations

from fractions import Fraction

from streamer.errors import UsageError, public_url
from streamer.stage import Source

_LATER = ("camera:", "rtsp:", "rtsps:", "rtmp:", "rtmps:", "srt:", "udp:", "rtp:")


def make_source(url: str, *, start: Fraction | None = None, duration: Fraction | None = None) -> Source:
    """The source that `url` names, not yet opened: `test:` or anything that PyAV decodes.

    `start` skips that many seconds, `duration` ends the stream after that many. Raises UsageError for a kind that is
    not known.
    """
    start = start or Fraction(0)
    if start < 0 or (duration is not None and duration <= 0):
        raise UsageError("--start must be 0 or more and --duration more than 0 (seconds)")
    if url.startswith("test:"):
        from streamer.sources.pattern import PatternSource

        return PatternSource(url, start=start, duration=duration)
    if url.startswith(_LATER) or url.startswith("/dev/") or url == "-":
        raise UsageError(
            f"can't read {public_url(url)}: live inputs are not supported by this version; give a file, an image, "
            "a numbered sequence such as frames/%05d.png, or test:"
        )
    from streamer.sources.media import MediaSource

    return MediaSource(url, start=start, duration=duration)
