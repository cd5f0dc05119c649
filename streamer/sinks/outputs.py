"""Live outputs by kind: which muxer and protocol for a URL, and which sound it takes. An explicit table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from streamer.errors import SinkError, UsageError, public_url
from streamer.query import parameters, with_defaults
from streamer.sinks.codecs import RAW

_TS_SOUNDS = frozenset({"aac", "mp3", "mp2", "ac3", "eac3"})
_SEGMENT_S = 2
_PLAYLIST_SEGMENTS = 6


class Carrier(Enum):
    """What brings the bytes to the peer; see streamer.sinks.carriers."""

    FILES = "PyAV writes files"
    STDOUT = "standard output"
    UDP = "datagrams"
    PUMP = "a child process with PyAV"
    SRT = "a child process with FFmpeg"


@dataclass(frozen=True, slots=True)
class Output:
    """How to write to one live output.

    `target` is where `carrier` brings the stream, `muxer` FFmpeg's name of the format, `sounds` the codecs of sound
    that are copied (None: all), anything else is encoded as `sound` (None: left out). `reconnects` says that it can
    be opened again, `listens` that the peer calls, if and when it likes.
    """

    target: str
    muxer: str
    carrier: Carrier
    options: dict[str, str] = field(default_factory=dict)
    sounds: frozenset[str] | None = _TS_SOUNDS
    sound: str | None = "aac"
    reconnects: bool = True
    listens: bool = False


def is_live_output(url: str) -> bool:
    """Whether `url` goes through this table."""
    return url == "-" or "://" in url or url.startswith("hls:")


def place_of(output: str) -> str:
    """What two names of the same output have in common: a file's or playlist's real path, else the name itself."""
    if output.startswith("hls:"):
        return f"hls:{os.path.realpath(output.removeprefix('hls:'))}"
    return output if is_live_output(output) or is_screen(output) else os.path.realpath(output)


def is_screen(url: str) -> bool:
    """Whether somebody looks at `url` at once: it is no file, and no stream either."""
    return url == "preview:" or url.startswith("virtualcam:")


def is_real_time(url: str) -> bool:
    """Whether the peer behind `url` expects frames as they happen, not as fast as they can be made."""
    return "://" in url or is_screen(url)


def output_for(url: str, codec: str | None = None, *, force: bool = False) -> Output:
    """The row for `url`. Raises UsageError for an unknown kind or an existing playlist without `force`, SinkError."""
    scheme = url.partition(":")[0].lower()
    if scheme == "rtsp":
        sounds = frozenset({"aac", "opus", "mp3", "pcm_mulaw", "pcm_alaw", "ac3"})
        return Output(url, "rtsp", Carrier.PUMP, {"rtsp_transport": "tcp"}, sounds)
    if scheme in ("rtmp", "rtmps"):
        return Output(url, "flv", Carrier.PUMP, {"flvflags": "no_duration_filesize"}, frozenset({"aac", "mp3"}))
    if scheme == "udp":
        return Output(url, "mpegts", Carrier.UDP)
    if scheme == "srt":
        target = with_defaults(url, {"latency": "120000", "pkt_size": "1316"})
        return Output(target, "mpegts", Carrier.SRT, listens=parameters(url).get("mode") == "listener")
    if scheme == "hls":
        return _hls(url.partition(":")[2], force)
    if url == "-":
        if codec in RAW:
            return Output(url, "yuv4mpegpipe", Carrier.STDOUT, sounds=frozenset(), sound=None, reconnects=False)
        return Output(url, "matroska", Carrier.STDOUT, {"live": "1"}, None, reconnects=False)
    raise UsageError(
        f"can't write {public_url(url)}: give rtsp://, rtmp://, srt://, udp://, hls:FOLDER, - (standard output), "
        "a file, an image, a numbered sequence such as frames/%05d.png, preview:, virtualcam:, or null:"
    )


def _hls(name: str, force: bool) -> Output:
    """A playlist and its segments in a folder, which is made if it isn't there."""
    if not name:
        raise UsageError("hls: needs a folder, as in hls:public/stream")
    folder = Path(name).absolute()
    playlist = folder / "index.m3u8"
    if playlist.exists() and not force:
        raise UsageError(f"{playlist} exists already: give another folder, or --force to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"can't write hls:{name}: can't create the folder ({error.strerror})") from error
    options = {
        "hls_time": str(_SEGMENT_S),
        "hls_list_size": str(_PLAYLIST_SEGMENTS),
        "hls_flags": "delete_segments+independent_segments",
        "hls_segment_filename": str(folder / "segment-%05d.ts"),
    }
    return Output(str(playlist), "hls", Carrier.FILES, options)
