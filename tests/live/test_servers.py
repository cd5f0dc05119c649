"""Servers that others wrote: nginx with its RTMP module, and GStreamer's RTSP server, both from Debian's packages."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

import streamer
from streamer.pipeline import Pipeline
from streamer.sources import make_source
from tests.live.peers import LIMIT_S, Reader, free_port, process, sender

pytestmark = pytest.mark.slow

NGINX = """
daemon off; master_process off; worker_processes 1; error_log {folder}/error.log warn; pid {folder}/nginx.pid;
load_module {module};
events {{ worker_connections 64; }}
rtmp {{ server {{ listen 127.0.0.1:{rtmp}; application live {{
    live on; hls on; hls_path {folder}/hls; hls_fragment 500ms; hls_playlist_length 4s; }} }} }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{http}; location /hls {{ root {folder}; }} }} }}
"""
MODULES = ("/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/share/nginx/modules/ngx_rtmp_module.so")

GST = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
play = GstRtspServer.RTSPMediaFactory()
play.set_launch(
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=96,framerate=25/1"
    " ! jpegenc ! rtpjpegpay name=pay0"
    " audiotestsrc is-live=true ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name=pay1 )"
)
play.set_shared(True)
record = GstRtspServer.RTSPMediaFactory()
record.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
record.set_launch("( rtph264depay name=depay0 ! h264parse ! matroskamux streamable=true ! filesink location=%s )")
for path, factory in (("/play", play), ("/record", record)):
    server.get_mount_points().add_factory(path, factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


class Nginx:
    """The RTMP application `live`, whose streams are also HLS playlists."""

    def __init__(self, folder: Path) -> None:
        self.rtmp, self.http = free_port(), free_port()
        self.folder = folder

    def publish(self, name: str) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp}/live/{name}"

    def playlist(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http}/hls/{name}.m3u8"


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    module = next((path for path in MODULES if Path(path).exists()), None)
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None or module is None:
        pytest.skip("nginx with libnginx-mod-rtmp is not installed")
    server = Nginx(tmp_path)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(folder=tmp_path, module=module, rtmp=server.rtmp, http=server.http))
    with process([program, "-c", str(configuration), "-p", str(tmp_path)], stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: running.poll() is not None or listens(server.rtmp))
        assert running.poll() is None, (tmp_path / "error.log").read_text()
        yield server


def wait_until(condition: Callable[[], bool]) -> None:
    """Looks again and again: nothing tells that another program has got so far."""
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def gstreamer(tmp_path: Path) -> Iterator[str]:
    """The address of an RTSP server: /play gives JPEG and A-law, /record writes recorded.mkv."""
    python = "/usr/bin/python3"
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not Path(python).exists() or subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("gir1.2-gst-rtsp-server-1.0 is not installed")
    script = GST % str(tmp_path / "recorded.mkv")
    with process([python, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        with running.stdout:
            yield f"rtsp://127.0.0.1:{int(running.stdout.readline())}"


def run_until(frames: int, source: str, target: str, **options: object) -> streamer.Summary:
    """Enhances a live source without a model until so many frames are delivered."""
    pipelines: list[Pipeline] = []

    def stop(progress: streamer.Progress) -> None:
        if progress.frames >= frames:
            pipelines[0].stop()

    return streamer.enhance(source, target, model="none", on_start=pipelines.append, on_progress=stop, **options)  # type: ignore[arg-type]


def test_rtmp_through_nginx_and_hls_from_it(nginx: Nginx, tmp_path: Path) -> None:
    """FFmpeg publishes; we play that, publish it again, and play the playlist that nginx makes of it."""
    with process(sender("-f", "flv", nginx.publish("camera"), sound=True, rate=25)):
        pipelines: list[Pipeline] = []
        job = threading.Thread(
            target=streamer.enhance,
            args=(nginx.publish("camera"), nginx.publish("enhanced")),
            kwargs={"model": "none", "on_start": pipelines.append, "crf": 23},
        )
        job.start()
        try:
            wait_until((tmp_path / "hls" / "enhanced.m3u8").exists)
            with Reader(make_source(nginx.playlist("enhanced"))) as played:
                played.wait_frames(30)
        finally:
            pipelines[0].stop()
            job.join(LIMIT_S)
    assert not job.is_alive()
    assert (played.source.format.width, played.source.format.height) == (160, 90)
    assert [stream.type for stream in played.source.media.companions] == ["audio"]
    steps = {round(float(after - before), 3) for before, after in zip(played.times, played.times[1:], strict=False)}
    assert all(step > 0 for step in steps)


def test_rtsp_from_gstreamer(gstreamer: str, tmp_path: Path) -> None:
    """JPEG pictures and A-law sound, which no other test's server sends."""
    summary = run_until(40, f"{gstreamer}/play", str(tmp_path / "out.mkv"))
    assert summary.frames >= 40
    assert summary.source_size == "160x96"
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.audio[0].codec_context.name == "flac", (
            "without loss: PyAV copies no G.711 into Matroska"
        )
        assert len(list(container.decode(video=0))) == summary.frames


def test_rtsp_into_gstreamer(gstreamer: str, tmp_path: Path) -> None:
    summary = run_until(40, "test:160x96@25,200", f"{gstreamer}/record", live=True)
    assert summary.frames >= 40
    assert sum(summary.skipped.values()) == 0
    with av.open(str(tmp_path / "recorded.mkv")) as container:
        picture = next(container.decode(video=0))
        assert (picture.width, picture.height) == (160, 96)
