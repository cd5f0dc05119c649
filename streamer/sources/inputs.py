"""Live inputs by kind: what FFmpeg opens for a URL, with which options and time limits. An explicit table."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from streamer.errors import SourceError, UsageError, public_url
from streamer.numbered import is_pattern
from streamer.query import with_defaults

_FAST_PROBE = {"analyzeduration": "200000", "fpsprobesize": "0"}
_CAMERA = re.compile(r"camera:(?P<device>[^,@]+)(?:,(?P<size>\d+x\d+))?(?:@(?P<rate>\d+(?:/\d+)?))?")
_SCREEN = re.compile(
    r"screen:(?P<name>.*?)(?:,(?P<size>\d+x\d+)(?:\+(?P<x>\d+)\+(?P<y>\d+))?)?(?:@(?P<rate>\d+(?:/\d+)?))?"
)
_TRANSPORTS = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Input:
    """How to open one live input.

    `target` is what PyAV opens (or the child, where `child`), `format` FFmpeg's demuxer (None: it finds out);
    `open_s` and `read_s` are time limits in seconds. `reconnects` says that it can be opened again, `paced` that it
    gives more than real time and must be held back, `child` which child process opens it ("": none, "srt": FFmpeg's
    program, "rtmp": streamer.sources.listen).
    """

    target: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    open_s: float = 5.0
    read_s: float = 3.0
    reconnects: bool = True
    paced: bool = False
    child: str = ""


def is_live(url: str) -> bool:
    """Whether `url` is live by itself; files and `-` are only when asked to be."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return urlsplit(url).path.lower().endswith((".m3u8", ".mjpg", ".mjpeg"))
    return scheme in ("camera", "screen", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp") or url.startswith(
        "/dev/video"
    )


def is_sequence(url: str) -> bool:
    """Whether `url` is the pattern of a numbered sequence of pictures, such as frames/%05d.png."""
    return "://" not in url and is_pattern(url) and not os.path.isfile(url)


def check_transport(name: str) -> None:
    """Raises UsageError if there is no such transport for RTSP."""
    if name not in _TRANSPORTS:
        raise UsageError(f"unknown RTSP transport {name!r}: choose {' or '.join(_TRANSPORTS)}")


def input_for(url: str, rtsp_transport: str = "tcp") -> Input:
    """The row for `url`. Raises UsageError for an unknown kind or option."""
    check_transport(rtsp_transport)
    scheme = url.partition(":")[0].lower()
    if scheme in ("rtsp", "rtsps"):
        return Input(url, options={"rtsp_transport": rtsp_transport, "max_delay": "300000", **_FAST_PROBE})
    if scheme == "rtmp" and "listen" in dict(parse_qsl(urlsplit(url).query)):
        return rtmp_server(url)
    if scheme in ("rtmp", "rtmps"):
        # Shorter probes were seen to find only the sound.
        return Input(url, options={"analyzeduration": "2000000", "fpsprobesize": "0"}, open_s=8.0)
    if scheme in ("http", "https"):
        return Input(url, options={"fpsprobesize": "0"}, open_s=10.0, read_s=10.0, paced=True)
    if scheme == "udp":
        defaults = {"timeout": "3000000", "fifo_size": "50000", "overrun_nonfatal": "1"}
        return Input(with_defaults(url, defaults), options={"analyzeduration": "1000000", "fpsprobesize": "0"})
    if scheme == "tcp":
        return Input(with_defaults(url, {"timeout": "3000000"}), options=_FAST_PROBE)
    if scheme == "srt":
        return srt_input(url)
    if url == "-":
        return Input("pipe:0", options={"fpsprobesize": "0"}, open_s=30.0, read_s=30.0, reconnects=False, paced=True)
    if url.startswith("/dev/video"):
        return camera_input(f"camera:{url}")
    if scheme == "camera":
        return camera_input(url)
    if scheme == "screen":
        return screen_input(url)
    raise UsageError(
        f"{public_url(url)} is not a live input: give rtsp://, rtmp://, srt://, udp://, tcp://, http(s)://, camera:0, "
        "/dev/video0, screen: or -"
    )


def srt_input(url: str) -> Input:
    """SRT comes through a child process as MPEG-TS; its own timeout makes it end when the peer is silent."""
    options = {"analyzeduration": "500000", "fpsprobesize": "0"}
    target = with_defaults(url, {"latency": "120000", "timeout": "3000000", "connect_timeout": "3000"})
    return Input(target, format="mpegts", options=options, open_s=6.0, read_s=6.0, child="srt")


def rtmp_server(url: str) -> Input:
    """`rtmp://HOST:PORT/APPLICATION/KEY?listen=1` waits for one publisher who knows the key, and then for the next."""
    parts = urlsplit(url)
    *application, key = parts.path.strip("/").split("/")
    if not application or not key or not parts.hostname:
        raise UsageError(f"can't listen at {public_url(url)}: write rtmp://0.0.0.0:1935/APPLICATION/KEY?listen=1")
    target = parts._replace(query="").geturl()
    return Input(target, format="nut", options=_FAST_PROBE, child="rtmp")


def camera_input(url: str, platform: str = sys.platform) -> Input:
    """`camera:N[,WIDTHxHEIGHT][@RATE]`, N a number, a device file or (on Windows and macOS) a name."""
    match = _CAMERA.fullmatch(url)
    if match is None:
        raise UsageError(f"can't read {url!r}: write camera:N[,WIDTHxHEIGHT][@RATE], e.g. camera:0,1280x720@30")
    wanted = {"video_size": match["size"], "framerate": match["rate"]}
    options = {name: value for name, value in wanted.items() if value}
    device = match["device"]
    if platform == "win32":
        return Input(f"video={_directshow_name(device)}", "dshow", options)
    if platform == "darwin":
        return Input(f"{device}:none", "avfoundation", {"framerate": "30", **options})
    return Input(device if device.startswith("/") else f"/dev/video{device}", "v4l2", options)


def screen_input(url: str, platform: str = sys.platform) -> Input:
    """`screen:[NAME][,WIDTHxHEIGHT[+X+Y]][@RATE]`, by default all of the screen.

    NAME is a display such as :0 (Linux, X11), a window's title (Windows) or a screen's number (macOS, which takes no
    part of it).
    """
    match = _SCREEN.fullmatch(url)
    if match is None:
        raise UsageError(
            f"can't read {url!r}: write screen:[NAME][,WIDTHxHEIGHT[+X+Y]][@RATE], e.g. screen:,1280x720@30"
        )
    name, x, y = match["name"], match["x"] or "0", match["y"] or "0"
    options = {"framerate": match["rate"] or "30"}
    if platform == "darwin":
        if match["size"]:
            raise UsageError(f"{url}: on macOS a screen is captured as a whole")
        return Input(f"Capture screen {name or 0}:none", "avfoundation", options)
    if match["size"]:
        options["video_size"] = match["size"]
    if platform == "win32":
        offsets = {"offset_x": x, "offset_y": y} if match["x"] else {}
        return Input(f"title={name}" if name else "desktop", "gdigrab", options | offsets)
    return Input(f"{name or os.environ.get('DISPLAY', '')}+{x},{y}", "x11grab", options)


def _directshow_name(device: str) -> str:
    """DirectShow knows cameras by name only."""
    if not device.isdigit():
        return device
    import av

    names = [found.name for found in av.enumerate_input_devices("dshow") if "video" in (found.media_types or ())]
    if int(device) >= len(names):
        raise SourceError(f"can't open camera {device}: there is {', '.join(names) or 'no camera on this machine'}")
    return names[int(device)]
