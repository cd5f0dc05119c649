"""Live outputs to real peers: what arrives, who waits for whom, who comes back, and how it ends."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

import streamer
from streamer.color import explicit
from streamer.convert import fill_picture
from streamer.errors import SinkError, UsageError
from streamer.frame import Frame
from streamer.pipeline import Pipeline
from streamer.sinks import make_sink, queued
from streamer.sinks.carriers import Datagrams, open_pipe
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.lowlatency import live_encoder
from streamer.sinks.outputs import Carrier, Output, output_for
from streamer.sinks.queued import QueuedSink
from streamer.sources import make_source
from streamer.stage import Media
from tests.clips import Clip, copied_packets, decoded, make_frame, times
from tests.live.peers import LIMIT_S, ffmpeg, free_port, process, sender, to_rtsp
from tests.live.relay import RtspRelay


@pytest.fixture
def relay() -> Iterator[RtspRelay]:
    with RtspRelay() as running:
        yield running


def receiver(url: str, target: Path, *options: str, seconds: float = 1) -> list[str]:
    """The command of an FFmpeg that records so many seconds of what it is sent."""
    quick = ("-analyzeduration", "500000", "-fpsprobesize", "0")
    return [
        ffmpeg(),
        "-nostdin",
        "-v",
        "error",
        *quick,
        *options,
        "-i",
        url,
        "-t",
        str(seconds),
        "-c",
        "copy",
        str(target),
    ]


class Feeder:
    """Enhances an endless pattern into outputs on a thread of its own, in real time, until it is left."""

    def __init__(self, *outputs: str, settings: EncoderSettings | None = None, source: str = "test:160x96@25,100000"):
        self.sinks = [make_sink(output, settings) for output in outputs]
        self.delivered = threading.Semaphore(0)
        self.frames = 0
        self.pipeline = Pipeline(make_source(source, live=True), [], self.sinks, on_frame=self._count)

    def _count(self, frame: Frame) -> None:
        self.frames += 1
        self.delivered.release()

    def __enter__(self) -> Feeder:
        self.pipeline.start()
        return self

    def wait_frames(self, number: int) -> None:
        for _ in range(number):
            assert self.delivered.acquire(timeout=LIMIT_S)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.pipeline.stop()
        assert self.pipeline.join(LIMIT_S)
        if kind is None:
            self.pipeline.wait()


def check_recording(path: Path) -> None:
    pictures = decoded(path)
    assert len(pictures) >= 10
    assert (pictures[0].width, pictures[0].height, pictures[0].format.name) == (160, 96, "yuv420p")
    assert int(pictures[0].colorspace) == int(pictures[0].color_primaries) == int(pictures[0].color_trc) == 1
    assert int(pictures[0].color_range) == 1


class TestProtocols:
    def test_rtsp(self, relay: RtspRelay, tmp_path: Path) -> None:
        with Feeder(relay.url("out")):
            relay.wait_published("out")
            command = receiver(relay.url("out"), tmp_path / "out.mkv", "-rtsp_transport", "tcp", seconds=3)
            subprocess.run(command, check=True, timeout=LIMIT_S)
        check_recording(tmp_path / "out.mkv")

    @pytest.mark.slow
    def test_udp(self, tmp_path: Path) -> None:
        url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        patience = ("-analyzeduration", "5000000")  # who joins late must wait for a keyframe
        command = receiver(f"{url}?timeout=20000000", tmp_path / "out.mkv", *patience, seconds=3)
        with process(command) as running, Feeder(url):
            assert running.wait(LIMIT_S) == 0
        check_recording(tmp_path / "out.mkv")

    def test_datagrams_hold_whole_packets_and_nothing_waits_for_the_next_frame(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(LIMIT_S)
            pipe = Datagrams(f"udp://127.0.0.1:{peer.getsockname()[1]}")
            sent = bytes(range(256)) * 10
            pipe.write(sent[: 9 * 188 + 5])
            assert [len(peer.recv(4096)), len(peer.recv(4096))] == [7 * 188, 2 * 188]
            pipe.write(sent[9 * 188 + 5 : 2000])
            assert peer.recv(4096) == sent[9 * 188 : 10 * 188]
            pipe.close()
            assert peer.recv(4096) == sent[10 * 188 : 2000]

    @pytest.mark.slow
    def test_srt(self, tmp_path: Path) -> None:
        url = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}?passphrase=1234567890"
        with process(receiver(f"{url}&mode=listener", tmp_path / "out.mkv")) as running, Feeder(url):
            assert running.wait(LIMIT_S) == 0
        check_recording(tmp_path / "out.mkv")

    def test_the_child_for_srt_sends_every_picture(self, tmp_path: Path) -> None:
        ffmpeg()
        clip = Clip(64, 48, frames=60, options={"g": "50", "tune": "zerolatency"}).write(tmp_path / "in.ts")
        pipe, _ = open_pipe(Output(str(tmp_path / "out.ts"), "mpegts", Carrier.SRT))
        assert pipe is not None
        pipe.write(clip.read_bytes())
        pipe.close()
        assert len(decoded(tmp_path / "out.ts")) == 60

    @pytest.mark.slow
    def test_rtmp(self, tmp_path: Path) -> None:
        url = f"rtmp://127.0.0.1:{free_port()}/live/key"
        with process(receiver(url, tmp_path / "out.mkv", "-listen", "1")) as running, Feeder(url) as feeder:
            assert running.wait(LIMIT_S) == 0
            assert isinstance(feeder.sinks[0], QueuedSink)
        check_recording(tmp_path / "out.mkv")

    def test_hls(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "hls"
        summary = streamer.enhance("test:160x96@25,150", f"hls:{folder}", model="none")
        assert len(decoded(folder / "index.m3u8")) == summary.frames == 150
        assert len(list(folder.glob("*.ts"))) == 3
        with pytest.raises(UsageError, match="exists already"):
            make_sink(f"hls:{folder}")

    @pytest.mark.parametrize(("codec", "muxer"), [("h264", "matroska"), ("rawvideo", "yuv4mpegpipe")])
    def test_a_pipe_through_standard_input_and_output(self, tmp_path: Path, codec: str, muxer: str) -> None:
        clip = Clip(64, 48, frames=20, audio="aac").write(tmp_path / "in.mkv")
        command = [sys.executable, "-m", "streamer", "enhance", "-", "-", "--model", "none", "--codec", codec, "--json"]
        with clip.open("rb") as content:
            done = subprocess.run(command, stdin=content, capture_output=True, timeout=LIMIT_S, check=True)
        (tmp_path / "out").write_bytes(done.stdout)
        with av.open(str(tmp_path / "out"), format=muxer) as container:
            assert len(list(container.decode(video=0))) == 20
        assert b'"frames": 20' in done.stderr

    def test_sound_is_copied_where_it_may_be(self, tmp_path: Path) -> None:
        clip = Clip(64, 48, frames=50, audio="aac").write(tmp_path / "in.mp4")
        summary = streamer.enhance(clip, f"hls:{tmp_path / 'hls'}", model="none")
        assert summary.notes == ()
        assert summary.av_offset_ms == {f"hls:{tmp_path / 'hls'}": 0.0}
        (before,), (after,) = (copied_packets(path, "audio") for path in (clip, tmp_path / "hls" / "index.m3u8"))
        adts_bytes = 7
        assert [packet[adts_bytes:] for packet, _ in after] == [packet for packet, _ in before][-len(after) :]
        assert len(after) >= len(before) - 1

    def test_sound_is_encoded_where_it_must_be(self, tmp_path: Path) -> None:
        clip = Clip(64, 48, frames=50, audio="flac").write(tmp_path / "in.mkv")
        summary = streamer.enhance(clip, f"hls:{tmp_path / 'hls'}", model="none")
        assert any("encoded as aac, because hls can't hold flac" in note for note in summary.notes)
        with av.open(str(tmp_path / "hls" / "index.m3u8")) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            frames = list(container.decode(audio=0))
        assert abs(sum(frame.samples for frame in frames) / 48000 - 2) < 0.1

        assert summary.av_offset_ms == {f"hls:{tmp_path / 'hls'}": 0.0}
        assert list(summary.av_skew_ms) == list(summary.av_offset_ms)


class TestTrouble:
    @pytest.mark.slow
    def test_a_stuck_peer_slows_nobody(self, tmp_path: Path) -> None:
        url = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        stuck = f"rtmp://127.0.0.1:{free_port()}/live/key"
        recording = tmp_path / "out.mkv"
        settings = EncoderSettings(crf=0)  # large pictures fill the peer's buffers soon
        with (
            process(receiver(stuck, tmp_path / "stuck.mkv", "-listen", "1", seconds=1000)) as peer,
            process(receiver(f"{url}?mode=listener", tmp_path / "srt.mkv", seconds=1000)),
            Feeder(stuck, url, str(recording), settings=settings, source="test:320x180@25,100000") as feeder,
        ):
            rtmp, srt, _ = feeder.sinks
            assert isinstance(rtmp, QueuedSink)
            while not rtmp.has_connected:
                feeder.wait_frames(1)
            peer.send_signal(signal.SIGSTOP)
            while not rtmp.counts["skipped"]:
                feeder.wait_frames(1)
            feeder.wait_frames(25)
        assert rtmp.counts["skipped"] > 0
        # A busy machine may be late for the others, too, but not because of the stuck peer.
        assert srt.counts["skipped"] < rtmp.counts["skipped"] / 2
        assert len(times(recording)) == feeder.frames
        assert feeder.pipeline.stats.skipped == rtmp.counts["skipped"] + srt.counts["skipped"]

    @pytest.mark.slow
    def test_a_peer_that_stays_stuck_is_connected_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(queued, "_STUCK_S", 0.5)
        url = f"rtmp://127.0.0.1:{free_port()}/live/key"
        with (
            process(receiver(url, tmp_path / "stuck.mkv", "-listen", "1", seconds=1000)) as peer,
            Feeder(url, settings=EncoderSettings(crf=0), source="test:320x180@50,100000") as feeder,
        ):
            sink = feeder.sinks[0]
            assert isinstance(sink, QueuedSink)
            while not sink.has_connected:
                feeder.wait_frames(1)
            peer.send_signal(signal.SIGSTOP)
            while "next try" not in caplog.text:
                feeder.wait_frames(1)
        assert sink.counts["skipped"] > 0

    @pytest.mark.slow
    def test_a_listener_that_nobody_calls_fails_nobody(self, tmp_path: Path) -> None:
        url = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}?mode=listener"
        target = tmp_path / "out.mkv"
        summary = streamer.enhance("test:160x96@50,50", [url, target], model="none")
        assert len(times(target)) == summary.frames
        assert any("left alone" in note or "skipped" in note for note in summary.notes)

    @pytest.mark.slow
    def test_a_sink_whose_peer_dies_comes_back_alone(self, relay: RtspRelay, tmp_path: Path) -> None:
        recording = tmp_path / "out.mkv"
        with Feeder(relay.url("out"), str(recording)) as feeder:
            sink = feeder.sinks[0]
            assert isinstance(sink, QueuedSink)
            while not sink.has_connected:
                feeder.wait_frames(1)
            relay.drop_publishers()
            while not feeder.sinks[0].counts["sink reconnects"]:
                feeder.wait_frames(1)
            command = receiver(relay.url("out"), tmp_path / "again.mkv", "-rtsp_transport", "tcp", seconds=3)
            subprocess.run(command, check=True, timeout=LIMIT_S)
        check_recording(tmp_path / "again.mkv")
        assert len(times(recording)) == feeder.frames
        assert feeder.pipeline.stats.summary()["events"]["sink reconnects"] >= 1

    @pytest.mark.slow
    def test_a_peer_that_was_never_there_is_an_error(self) -> None:
        with pytest.raises(
            SinkError, match=r"can't (connect|write) to rtsp://\*\*\*@127.0.0.1:1/x: connection refused"
        ):
            streamer.enhance("test:64x64@25,1000", "rtsp://me:secret@127.0.0.1:1/x", model="none")

    @pytest.mark.slow
    def test_a_server_that_never_answers_is_an_error(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url, target = f"rtmp://127.0.0.1:{server.getsockname()[1]}/live/key", tmp_path / "out.mkv"
            with pytest.raises(SinkError, match=r"can't connect to rtmp://\S+: the peer took nothing"):
                streamer.enhance("test:160x96@50,50", [url, target], model="none")
        assert len(times(target)) == 50

    def test_a_silent_server_does_not_stop_the_process(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            sink = make_sink(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x")
            server.settimeout(LIMIT_S)
            sink.open(make_frame().format, Media())
            for number in range(10):
                sink.write(make_frame(number=number))
            connection, _ = server.accept()  # this thread still runs, although nobody answers
            connection.close()
            sink.abort()

    def test_wrong_addresses(self) -> None:
        for url in ("ftp://host/x", "hls:"):
            with pytest.raises(UsageError):
                make_sink(url)


class TestEncoding:
    def test_low_latency_defaults(self) -> None:
        format = make_frame("yuv422p10le", 640, 360).format
        encoder, settings, options = live_encoder(EncoderSettings(), explicit(format))
        assert (encoder.name, settings.pix_fmt, options["preset"], options["tune"], options["g"]) == (
            "libx264",
            "yuv420p",
            "ultrafast",
            "zerolatency",
            "50",
        )

    @pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "mpeg4"])
    def test_no_picture_waits_inside(self, codec: str) -> None:
        format = explicit(make_frame("yuv420p", 64, 64).format)
        encoder, settings, options = live_encoder(EncoderSettings(codec=codec), format)
        with av.open(io.BytesIO(), "w", format="matroska") as container:
            stream: Any = container.add_stream(encoder.name, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 64, settings.pix_fmt
            for number in range(4):
                picture = av.VideoFrame(64, 64, "yuv420p")
                fill_picture(picture, make_frame("yuv420p", 64, 64, number=number).planes)
                picture.pts, picture.time_base = number, Fraction(1, 25)
                assert len(stream.encode(picture)) == 1

    def test_the_table(self) -> None:
        assert output_for("srt://h:1").carrier is Carrier.SRT
        assert output_for("rtmp://h/live/key").muxer == "flv"
        assert output_for("-", "rawvideo").muxer == "yuv4mpegpipe"


@pytest.mark.slow
def test_live_in_files_and_network_out_with_a_network(relay: RtspRelay, tmp_path: Path) -> None:
    recording = tmp_path / "out.mp4"
    with process(sender(*to_rtsp(relay.url()), sound=True)) as camera:
        relay.wait_published()
        threading.Timer(1.5, camera.kill).start()
        outputs = [str(recording), relay.url("out")]
        summary = streamer.enhance(relay.url(), outputs, model="upscale-x2-nano", duration=4, preset="ultrafast")
    assert summary.live
    assert summary.output_size == "320x180"
    assert summary.stand_ins > 30
    assert set(summary.skipped) == {relay.url("out")}
    found = times(recording)
    assert len(found) == summary.frames
    assert Fraction(3) < found[-1] <= 4
    with av.open(str(recording)) as container:
        assert container.streams.audio


@pytest.mark.slow
def test_control_c_ends_a_live_recording_cleanly(relay: RtspRelay, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamer", "enhance", relay.url(), str(tmp_path / "out.mp4")]
    command += ["--model", "none", "--preset", "ultrafast", "--crf", "1"]
    with process(sender(*to_rtsp(relay.url()))):
        relay.wait_published()
        with process([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            while not any(path.stat().st_size > 5000 for path in tmp_path.glob(".*part*")):
                assert running.poll() is None
                os.sched_yield()
            running.send_signal(signal.SIGINT)
            output, errors = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130, errors
    assert b'"interrupted": true' in output
    assert len(decoded(tmp_path / "out.mp4")) > 5


@pytest.mark.slow
def test_control_c_ends_a_file_beside_a_paused_player(tmp_path: Path) -> None:
    target = tmp_path / "both.mkv"
    command = [sys.executable, "-m", "streamer", "enhance", "test:320x180@30,1000000", str(target), "-"]
    unread, written = os.pipe()
    try:
        settings = ["--model", "none", "--codec", "rawvideo", "--json"]
        with process([*command, *settings], stdout=written, stderr=subprocess.PIPE) as running:
            assert os.read(unread, 1) == b"Y"  # it plays, and then no more
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=LIMIT_S)
    finally:
        os.close(unread)
        os.close(written)
    assert running.returncode == 130, errors
    assert b'"interrupted": true' in errors
    assert [path.name for path in tmp_path.iterdir()] == ["both.mkv"]
    assert decoded(target)
