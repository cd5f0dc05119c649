"""Where frames come from. `make_source` finds the kind of source that an INPUT names; opening happens later, on the
pipeline's capture thread."""

from __future__ import annotations

from fractions import Fraction

from streamer.errors import UsageError, public_url
from streamer.stage import Source

_LATER = ("camera:", "rtsp:", "rtsps:", "rtmp:", "rtmps:", "srt:", "udp:", "rtp:")


def make_source(
    url: str, *, start: Fraction | None = None, duration: Fraction | None = None, rate: Fraction | None = None
) -> Source:
    """The source that `url` names, not yet opened: `test:` or anything that PyAV decodes.

    `start` skips that many seconds, `duration` ends the stream after that many; `rate` is the frame rate of a numbered
    sequence in Hz. Raises UsageError for a kind that is not known, or values out of range.
    """
    if rate is not None and not 0 < rate <= 1000:
        raise UsageError("--fps must be more than 0 and at most 1000")
    start = start or Fraction(0)
    if start < 0 or (duration is not None and duration <= 0):
        raise UsageError("--start must be 0 or more and --duration more than 0 (seconds)")
    if url.startswith("test:"):
        if rate is not None:
            raise UsageError("--fps is for numbered sequences: write the rate as in test:640x360@25")
        from streamer.sources.pattern import PatternSource

        return PatternSource(url, start=start, duration=duration)
    if url.startswith(_LATER) or url.startswith("/dev/") or url == "-":
        raise UsageError(
            f"can't read {public_url(url)}: live inputs are not supported by this version; give a file, an image, "
            "a numbered sequence such as frames/%05d.png, or test:"
        )
    from streamer.sources.media import MediaSource

    return MediaSource(url, start=start, duration=duration, rate=rate)
