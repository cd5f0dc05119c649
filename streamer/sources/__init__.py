"""Where frames come from. `make_source` finds the kind of source that an INPUT names; opening happens later, on the
pipeline's capture thread."""

from __future__ import annotations

from fractions import Fraction

from streamer.errors import UsageError, public_url
from streamer.sources.inputs import check_transport, is_live, is_sequence
from streamer.stage import Source


def make_source(
    url: str,
    *,
    start: Fraction | None = None,
    duration: Fraction | None = None,
    rate: Fraction | None = None,
    live: bool | None = None,
    reconnect_limit: int | None = None,
    rtsp_transport: str = "tcp",
) -> Source:
    """The source that `url` names, not yet opened: `test:`, a live input, or anything that PyAV decodes.

    `start` skips that many seconds, `duration` ends the stream after that many; `rate` in Hz is the frame rate of a
    numbered sequence, and for anything else that is live the most that is taken of it (see RatedSource). `live` decides
    whether frames come in real time and may be dropped (None: as the kind of input is by itself); a file or `test:`
    then plays at its own speed. `reconnect_limit` and `rtsp_transport` ("tcp" or "udp") are for live inputs. Raises
    UsageError for a kind that is not known, or values out of range.
    """
    if rate is not None and not 0 < rate <= 1000:
        raise UsageError("--fps must be more than 0 and at most 1000")
    start = start or Fraction(0)
    if start < 0 or (duration is not None and duration <= 0):
        raise UsageError("--start must be 0 or more and --duration more than 0 (seconds)")
    if reconnect_limit is not None and reconnect_limit < 0:
        raise UsageError("--reconnect-limit must be 0 or more; leave it out to reconnect for ever")
    check_transport(rtsp_transport)
    live = is_live(url) if live is None else live
    if live and (is_live(url) or url == "-"):
        if start:
            raise UsageError(f"--start doesn't apply to live inputs such as {public_url(url)}")
        from streamer.sources.live import LiveSource

        return _rated(
            LiveSource(url, duration=duration, reconnect_limit=reconnect_limit, rtsp_transport=rtsp_transport), rate
        )
    if not live or is_sequence(url):
        source = _recorded(url, start, duration, rate)
        return _paced(source) if live else source
    return _rated(_paced(_recorded(url, start, duration, None)), rate)


def _paced(source: Source) -> Source:
    from streamer.sources.paced import PacedSource

    return PacedSource(source)


def _rated(source: Source, rate: Fraction | None) -> Source:
    if rate is None:
        return source
    from streamer.sources.rated import RatedSource

    return RatedSource(source, rate)


def _recorded(url: str, start: Fraction, duration: Fraction | None, rate: Fraction | None) -> Source:
    if url.startswith("test:"):
        if rate is not None:
            raise UsageError("--fps is for numbered sequences: write the rate as in test:640x360@25")
        from streamer.sources.pattern import PatternSource

        return PatternSource(url, start=start, duration=duration)
    if is_live(url) and url.startswith(("camera:", "screen:", "/dev/", "srt:")):
        raise UsageError(f"{public_url(url)} is live and nothing else: leave out --no-live")
    from streamer.sources.media import MediaSource

    return MediaSource("pipe:0" if url == "-" else url, start=start, duration=duration, rate=rate)
