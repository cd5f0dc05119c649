"""Picture and sound of a live stream stay together, and the sound stays whole, on the way through the enhancement."""

from __future__ import annotations

import itertools
import socket
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import pytest

import streamer
from tests.live.clapper import beeps, clapper, flashes
from tests.live.peers import free_port, process, to_rtsp
from tests.live.relay import RtspRelay

TOLERANCE_S = 0.02
SECONDS = 8
AAC_FRAME_S = Fraction(1024, 48000)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["none", "upscale-x2-nano"])
def test_a_flash_and_its_beep_stay_together(model: str, tmp_path: Path) -> None:
    """In MPEG-TS, which has one clock for both. RTSP has none before its sender's reports."""
    url, out = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", tmp_path / "out.mkv"
    with process(clapper("-f", "mpegts", f"{url}?pkt_size=1316")):
        streamer.enhance(url, out, model=model, duration=SECONDS, preset="ultrafast")
    seen, heard = flashes(out), beeps(out)
    pairs = [beep - flash for flash in seen for beep in heard if abs(beep - flash) < 1]
    assert len(pairs) >= 2, (seen, heard)
    assert abs(median(pairs)) <= TOLERANCE_S


@pytest.mark.slow
def test_sound_of_which_only_every_so_many_packets_have_a_time_stays_whole(tmp_path: Path) -> None:
    """A quiet stream's AAC frames share RTP packets; FFmpeg gives only the first of each a time."""
    out = tmp_path / "out.mkv"
    with RtspRelay() as relay, process(clapper(*to_rtsp(relay.url()))):
        relay.wait_published()
        streamer.enhance(relay.url(), out, model="none", duration=SECONDS, preset="ultrafast")
    with av.open(str(out)) as container:
        packets: Any = container.demux(audio=0)
        times = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
    assert times[-1] - times[0] > SECONDS - 3
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert sum(abs(step - AAC_FRAME_S) > Fraction(2, 1000) for step in steps) <= 2  # where the anchor moved
