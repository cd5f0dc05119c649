"""A live input whose picture stops while its sound goes on."""

from __future__ import annotations

import io
import itertools
import socket
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from streamer.clock import fraction
from streamer.errors import SourceError
from streamer.frame import Frame
from streamer.sources import make_source
from streamer.sources.live import LiveSource
from tests.live.peers import LIMIT_S, Reader

PICTURES = 12
SAMPLES = 1024
CHUNK = 14 * 188


def recording(sounds: int) -> tuple[bytes, bytes]:
    """A transport stream of 12 pictures (25/s) and so many packets of sound: the part with both, and the rest."""
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts", options={"flush_packets": "1"}) as out:
        options = {"preset": "ultrafast", "tune": "zerolatency"}
        video = out.add_stream("libx264", rate=25, width=64, height=48, options=options)
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=48000, layout="mono")
        packets: list[Any] = []
        for number in range(PICTURES):
            picture = av.VideoFrame.from_ndarray(np.full((72, 64), 200, np.uint8), "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += video.encode(picture)
        for number in range(sounds):
            noise = np.random.default_rng(number).normal(0, 0.1, (1, SAMPLES)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(noise, "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, number * SAMPLES, Fraction(1, 48000)
            packets += audio.encode(sound)
        out.start_encoding()
        end = 0
        for packet in sorted(packets, key=lambda packet: packet.dts * fraction(packet.time_base)):
            is_picture = packet.stream is video
            out.mux_one(packet)
            end = written.tell() if is_picture else end
    return written.getvalue()[:end], written.getvalue()[end:]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT_S)
        yield listening


def sounds_of(frames: list[Frame]) -> list[Any]:
    return [packet for frame in frames for packet in frame.packets]


def test_a_picture_that_freezes_is_dimmed_and_its_sound_goes_on(server: socket.socket) -> None:
    both, sound_alone = recording(200)
    source = make_source(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    with Reader(source) as reader, server.accept()[0] as peer:
        peer.sendall(both)
        reader.wait_count("stand-in frames", 1)
        before = len(sounds_of(reader.frames))
        for start in range(0, len(sound_alone), CHUNK):
            peer.sendall(sound_alone[start : start + CHUNK])
            reader.wait_frames(1)
        reader.wait(lambda: any(frame.discontinuity for frame in reader.frames))
    assert source.counts.get("reconnects", 0) == 0
    times = [packet.pts * fraction(packet.time_base) for packet in sounds_of(reader.frames)[before:]]
    assert len(times) > 150
    assert all(abs(b - a - Fraction(SAMPLES, 48000)) < Fraction(1, 1000) for a, b in itertools.pairwise(times))
    held = [frame for frame in reader.frames if frame.packets][-1]
    assert held.planes[0].mean() < 150


def test_the_sound_that_waits_is_bounded(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.sources.receiver.MAX_SOUNDS", 50)
    both, sound_alone = recording(200)
    source = LiveSource(f"tcp://127.0.0.1:{server.getsockname()[1]}", reconnect_limit=0)
    frames: list[Frame] = []
    source._receiver.start()
    with server.accept()[0] as peer:
        peer.sendall(both + sound_alone)
    assert source._receiver.join(LIMIT_S)
    source._receiver.start = lambda: None  # type: ignore[method-assign]  # it has run already
    source.open()
    with pytest.raises(SourceError, match="can't reconnect"):
        frames.extend(iter(source.read, None))
    assert 40 < len(sounds_of(frames)) < 80
