"""Live inputs against real peers: what they give, how they lose and find their source again, how they fail."""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import SourceError, UsageError
from streamer.sources import make_source
from streamer.sources.inputs import camera_input, input_for, is_live, screen_input
from tests.live.peers import LIMIT_S, Reader, descriptors, free_port, process, sender, served, to_rtsp
from tests.live.relay import RtspRelay

INTERVAL_S = Fraction(1, 25)


@pytest.fixture
def relay() -> Iterator[RtspRelay]:
    with RtspRelay() as running:
        yield running


def assert_no_gap(reader: Reader) -> None:
    """No more than one and a half intervals from frame to frame, but where frames were dropped (and counted)."""
    for before, after in itertools.pairwise(reader.frames):
        assert 0 < after.time - before.time <= INTERVAL_S * 3 / 2 * (after.index - before.index)


class TestRtsp:
    def test_pictures_and_sound_arrive_on_one_timeline(self, relay: RtspRelay) -> None:
        source = make_source(relay.url())
        with process(sender(*to_rtsp(relay.url()), sound=True)):
            relay.wait_published()
            with Reader(source) as reader:
                reader.wait_frames(50)
        assert (source.format.width, source.format.height) == (160, 90)
        assert source.format.rate == 25
        assert source.live
        assert len(source.media.companions) == 1
        frames = reader.frames
        packets = [packet for frame in frames for packet in frame.packets]
        times = [packet.pts * packet.time_base for packet in packets]
        assert len(times) > 50
        assert times == sorted(set(times))
        assert abs(float(times[-1] - frames[-1].time)) < 0.5
        assert all(b.index > a.index for a, b in itertools.pairwise(frames))

    @pytest.mark.slow
    def test_a_killed_source_is_found_again_twenty_times(self, relay: RtspRelay) -> None:
        times, source = 20, make_source(relay.url())
        with Reader(source) as reader:
            before: tuple[int, int] | None = None
            for number in range(times + 1):
                with process(sender(*to_rtsp(relay.url()))) as running:
                    if number == 0:
                        relay.wait_published()
                    reader.wait_count("reconnects", number)
                    reader.wait_own_picture()
                    if before is None:
                        before = descriptors(), threading.active_count()
                    elif number == times:
                        assert descriptors() <= before[0] + 1
                        assert threading.active_count() <= before[1]
                    running.kill()
                    running.wait(LIMIT_S)
        assert source.counts["reconnects"] == times
        assert_no_gap(reader)
        recovered = [b.discontinuity for a, b in itertools.pairwise(reader.frames)]
        assert sum(recovered) >= 2 * times  # where the picture is lost, and where it is back

    @pytest.mark.slow
    def test_a_stall_shows_the_last_picture_then_says_so(self, relay: RtspRelay) -> None:
        source = make_source(relay.url())
        with process(sender(*to_rtsp(relay.url()))):
            relay.wait_published()
            with Reader(source) as reader:
                reader.wait_frames(10)
                relay.stall()
                reader.wait_count("stand-in frames", 40)
                relay.resume()
                reader.wait_own_picture()
        flags = [frame.discontinuity for frame in reader.frames]
        dim = flags.index(True)
        assert_no_gap(reader)
        held, dimmed = reader.frames[dim - 1].planes[0], reader.frames[dim].planes[0]
        assert dimmed.mean() < held.mean()
        text = dimmed[40:50]
        assert text.max() > 200 > dimmed[:20].max()
        assert sum(flags) >= 2

    @pytest.mark.slow
    def test_the_server_goes_and_comes(self, relay: RtspRelay) -> None:
        source = make_source(relay.url())
        with Reader(source) as reader:
            with process(sender(*to_rtsp(relay.url()))):
                relay.wait_published()
                reader.wait_frames(5)
                relay.refuse()
                reader.wait_count("stand-in frames", 30)
            relay.accept()
            with process(sender(*to_rtsp(relay.url()))):
                reader.wait_count("reconnects", 1)
                reader.wait_own_picture()
        assert_no_gap(reader)

    @pytest.mark.slow
    def test_another_size_after_a_reconnect_is_padded(self, relay: RtspRelay) -> None:
        source = make_source(relay.url())
        with Reader(source) as reader:
            with process(sender(*to_rtsp(relay.url()))):
                relay.wait_published()
                reader.wait_frames(5)
            with process(sender(*to_rtsp(relay.url()), size="120x120")):
                reader.wait_count("format changes", 5)
                reader.wait_own_picture()
        frame = reader.frames[-1]
        assert frame.planes[0].shape == (90, 160)
        assert np.all(frame.planes[0][:, :30] == 16)
        assert np.all(frame.planes[0][:, -30:] == 16)
        assert frame.planes[0][:, 40:120].std() > 10
        assert any("now 120x120" in note for note in source.notes)

    @pytest.mark.slow
    def test_the_limit_of_reconnects_ends_it(self, relay: RtspRelay) -> None:
        source = make_source(relay.url(), reconnect_limit=1)
        with Reader(source) as reader:
            with process(sender(*to_rtsp(relay.url()))):
                relay.wait_published()
                reader.wait_frames(5)
            reader.join()
        assert isinstance(reader.error, SourceError)
        assert "can't reconnect to rtsp://127.0.0.1" in str(reader.error)
        assert "no such stream" in str(reader.error)

    @pytest.mark.slow
    def test_a_duration_ends_it(self, relay: RtspRelay) -> None:
        source = make_source(relay.url(), duration=Fraction(1))
        with process(sender(*to_rtsp(relay.url()))):
            relay.wait_published()
            with Reader(source) as reader:
                reader.join()
        assert 20 <= len(reader.frames) <= 26
        assert reader.error is None


class TestFailures:
    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("rtsp://127.0.0.1:1/x", "connection refused"),
            ("rtmp://127.0.0.1:1/live/x", "connection refused"),
            ("rtsp://no-such-host.invalid/x", "check host name"),
            ("camera:79", "no such file or directory; this machine has"),
            ("screen::79", "is there an X11 display of that name"),
        ],
    )
    def test_unreachable(self, url: str, why: str) -> None:
        source = make_source(url, reconnect_limit=0)
        with pytest.raises(SourceError, match=f"can't connect to .*{why}"):
            source.open()

    def test_an_unknown_path(self, relay: RtspRelay) -> None:
        with pytest.raises(SourceError, match="no such stream; check the path"):
            make_source(relay.url("nothing"), reconnect_limit=0).open()

    @pytest.mark.slow
    def test_a_silent_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            source = make_source(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", reconnect_limit=0)
            with pytest.raises(SourceError, match="within 5 s"):
                source.open()

    def test_an_interrupt_ends_the_wait_for_a_silent_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            source = make_source(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x")
            with Reader(source) as reader:
                server.accept()[0].close()  # it has begun to connect
                source.interrupt()
                reader.join()
        assert reader.error is None
        assert not reader.frames

    def test_a_password(self, caplog: pytest.LogCaptureFixture) -> None:
        with RtspRelay("me:s3cret") as relay, process(sender(*to_rtsp(relay.url()))), caplog.at_level(logging.DEBUG):
            relay.wait_published()
            for wrong in ("", "me:gu3ss"):
                with pytest.raises(SourceError, match="wants another user name or password") as caught:
                    make_source(relay.url(password=wrong), reconnect_limit=0).open()
                assert "gu3ss" not in str(caught.value)
            with Reader(make_source(relay.url(password="me:s3cret"))) as reader:
                reader.wait_frames(2)
        assert "s3cret" not in caplog.text
        assert "gu3ss" not in caplog.text

    def test_a_codec_that_nobody_knows(self) -> None:
        with RtspRelay(rewrite=_unknown) as relay, process(sender(*to_rtsp(relay.url()))):
            relay.wait_published()
            with pytest.raises(SourceError, match=r"can't decode .*no decoder for its video codec"):
                make_source(relay.url(), reconnect_limit=0).open()

    def test_only_sound(self, relay: RtspRelay) -> None:
        with process(sender(*to_rtsp(relay.url()), sound=True, picture=False)):
            relay.wait_published()
            with pytest.raises(SourceError, match="no video, only audio"):
                make_source(relay.url()).open()

    def test_a_wrong_passphrase(self, caplog: pytest.LogCaptureFixture) -> None:
        port = free_port(socket.SOCK_DGRAM)
        listener = f"srt://127.0.0.1:{port}?mode=listener&passphrase=1234567890"
        with process(sender("-f", "mpegts", listener), stderr=subprocess.DEVNULL), caplog.at_level(logging.DEBUG):
            source = make_source(f"srt://127.0.0.1:{port}?passphrase=wrong-one-90", reconnect_limit=0)
            with pytest.raises(SourceError, match="refuses the passphrase") as caught:
                source.open()
        assert "wrong-one" not in str(caught.value) + caplog.text

    def test_srt_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
        with pytest.raises(SourceError, match=r"pip install 'streamer-enhancer\[live\]'"):
            make_source("srt://127.0.0.1:9").open()

    def test_usage(self) -> None:
        for options in ({"reconnect_limit": -1}, {"rtsp_transport": "carrier pigeon"}, {"start": Fraction(1)}):
            with pytest.raises(UsageError):
                make_source("rtsp://host/x", **options)
        with pytest.raises(UsageError, match="live and nothing else"):
            make_source("camera:0", live=False)


def _unknown(description: str) -> str:
    return description.replace("H264/", "X-UNKNOWN/")


class TestRtmpServer:
    @pytest.mark.slow
    def test_only_who_knows_the_key_is_heard(self, caplog: pytest.LogCaptureFixture) -> None:
        server = f"rtmp://127.0.0.1:{free_port()}"
        source = make_source(f"{server}/live/k3y?listen=1")
        with caplog.at_level(logging.DEBUG), Reader(source) as reader:
            for wrong in ("live/guess", "other/k3y"):
                refusals = caplog.text.count("was refused")
                while caplog.text.count("was refused") == refusals:  # until it listens, nobody is there
                    self._publish(f"{server}/{wrong}")
            assert not reader.frames
            with process(sender("-f", "flv", f"{server}/live/k3y", sound=True)):
                reader.wait_frames(20)
        assert any(frame.packets for frame in reader.frames)
        assert "k3y" not in caplog.text
        assert "guess" not in caplog.text

    def _publish(self, url: str) -> None:
        with process(sender("-f", "flv", url), stderr=subprocess.DEVNULL) as running:
            running.wait(LIMIT_S)

    @pytest.mark.slow
    def test_the_next_publisher_takes_over(self) -> None:
        url = f"rtmp://127.0.0.1:{free_port()}/live/k3y"
        source = make_source(f"{url}?listen=1")
        with Reader(source) as reader:
            for number in range(2):

                def is_heard(number: int = number) -> bool:
                    return bool(reader.frames) and source.counts.get("reconnects", 0) >= number

                while not is_heard():  # until it listens, nobody is there
                    with process(sender("-f", "flv", url), stderr=subprocess.DEVNULL) as running:
                        reader.wait_while_runs(running, is_heard)
        assert_no_gap(reader)

    def test_waiting_for_a_publisher_can_be_interrupted(self) -> None:
        source = make_source(f"rtmp://127.0.0.1:{free_port()}/live/k3y?listen=1")
        before = descriptors()
        with Reader(source):
            pass
        assert not source.counts
        assert descriptors() <= before + 1

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(SourceError, match="address already in use"):
                make_source(f"rtmp://127.0.0.1:{port}/live/k3y?listen=1", reconnect_limit=0).open()

    def test_a_key_is_needed(self) -> None:
        with pytest.raises(UsageError, match="write rtmp://"):
            make_source("rtmp://127.0.0.1/live?listen=1")


class TestOtherProtocols:
    @pytest.mark.slow
    def test_udp_with_loss(self) -> None:
        port, hop = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        source = make_source(f"udp://127.0.0.1:{port}")
        command = sender("-f", "mpegts", f"udp://127.0.0.1:{hop}?pkt_size=1316")
        with _lossy_hop(hop, port, every=20), process(command), Reader(source) as reader:
            reader.wait_frames(75)
        assert source.counts.get("reconnects", 0) == 0
        times = reader.times
        assert times == sorted(set(times))

    @pytest.mark.slow
    def test_a_clock_that_jumps_and_absurd_times(self) -> None:
        port = free_port(socket.SOCK_DGRAM)
        source = make_source(f"udp://127.0.0.1:{port}?timeout=10000000")
        to = f"udp://127.0.0.1:{port}?pkt_size=1316"
        hour, absurd = "ts='TS+if(gte(N,30),3600/TB,0)'", "pts='PTS+if(eq(mod(N,10),9),8000000000,0)':dts=DTS"
        with Reader(source) as reader:
            with process(sender("-bsf:v", f"setts={hour}", "-f", "mpegts", to)):
                reader.wait_count("jumps in time", 1)
                reader.wait_own_picture(10)
            with process(sender("-f", "mpegts", to)):  # another clock, an hour earlier, on the same connection
                reader.wait_count("jumps in time", 2)
                reader.wait_own_picture(10)
                good = len(reader.frames)
            with process(sender("-bsf:v", f"setts={absurd}", "-f", "mpegts", to)):
                reader.wait_own_picture(60)
        assert source.counts.get("reconnects", 0) == 0
        assert source.counts["jumps in time"] <= 3
        assert good > 20
        assert_no_gap(reader)
        last, first = reader.frames[-1], reader.frames[0]
        spent = Fraction(last.captured_ns - first.captured_ns, 10**9)
        assert abs(last.time - first.time - spent) < Fraction(1, 2)

    def test_srt(self) -> None:
        port = free_port(socket.SOCK_DGRAM)
        secret = "passphrase=1234567890"
        source = make_source(f"srt://127.0.0.1:{port}?{secret}")
        command = sender("-f", "mpegts", f"srt://127.0.0.1:{port}?mode=listener&{secret}", sound=True)
        with process(command), Reader(source) as reader:
            reader.wait_frames(30)
        assert any(frame.packets for frame in reader.frames)

    @pytest.mark.slow
    def test_hls(self, tmp_path: Path) -> None:
        with served(tmp_path) as address:
            playlist = ("-f", "hls", "-hls_time", "0.5", str(tmp_path / "live.m3u8"))
            with process(sender(*playlist)) as running:
                while not (tmp_path / "live.m3u8").exists():
                    assert running.poll() is None
                with Reader(make_source(f"{address}/live.m3u8")) as reader:
                    reader.wait_frames(50)
        gaps = [after - before for before, after in itertools.pairwise(reader.times)]
        assert 0 < min(gaps) <= max(gaps) <= Fraction(3, 10)


class _lossy_hop:  # noqa: N801  # used as a function
    """Forwards datagrams but for one in so many."""

    def __init__(self, port: int, to: int, every: int) -> None:
        self._to, self._every = ("127.0.0.1", to), every
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._port = port
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self._port))
        self._thread.join(LIMIT_S)
        self._socket.close()

    def _run(self) -> None:
        for number in itertools.count(1):
            datagram = self._socket.recv(2048)
            if not datagram:
                return
            if number % self._every:
                self._socket.sendto(datagram, self._to)


class TestTable:
    def test_what_is_live(self) -> None:
        live = ("rtsp://h/x", "rtmp://h/x", "srt://h:1", "udp://@:1", "camera:0", "/dev/video0", "http://h/a.m3u8?k=1")
        assert all(is_live(url) for url in live)
        assert not any(is_live(url) for url in ("a.mp4", "-", "http://h/a.mp4", "test:", "/dev/shm/a.mkv"))

    def test_cameras(self) -> None:
        assert camera_input("camera:1,1280x720@30", "linux").target == "/dev/video1"
        assert camera_input("camera:1,1280x720@30", "linux").options == {"video_size": "1280x720", "framerate": "30"}
        assert camera_input("camera:0", "darwin").format == "avfoundation"
        assert camera_input("camera:Integrated Camera", "win32").target == "video=Integrated Camera"
        with pytest.raises(UsageError, match="write camera:N"):
            input_for("camera:")

    def test_screens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DISPLAY", ":7")
        whole, part = screen_input("screen:", "linux"), screen_input("screen::0.1,640x360+10+20@25", "linux")
        assert (whole.target, whole.format, whole.options) == (":7+0,0", "x11grab", {"framerate": "30"})
        assert (part.target, part.options) == (":0.1+10,20", {"framerate": "25", "video_size": "640x360"})
        window = screen_input("screen:Notes, all", "win32")
        assert (window.target, window.format) == ("title=Notes, all", "gdigrab")
        assert screen_input("screen:1@60", "darwin").target == "Capture screen 1:none"
        with pytest.raises(UsageError, match="as a whole"):
            screen_input("screen:,640x360", "darwin")

    def test_query_parameters_of_the_user_win(self) -> None:
        target = input_for("srt://h:1?latency=5").target
        assert "latency=5" in target
        assert "latency=120000" not in target
