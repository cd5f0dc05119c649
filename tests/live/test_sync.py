"""Picture and sound of a live stream stay together, and the sound stays whole, on the way through the enhancement."""

from __future__ import annotations

import itertools
import socket
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import pytest

import streamer
from tests.live.clapper import HOLE_S, clapper, holes, pairs
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
        summary = streamer.enhance(url, out, model=model, duration=SECONDS, preset="ultrafast")
    found = pairs(out)
    assert len(found) >= 2
    assert abs(median(found)) <= TOLERANCE_S
    assert summary.av_offset_ms[str(out)] == pytest.approx(-1000 * median(found), abs=1000 * TOLERANCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libopus", "aac"])
def test_an_outage_is_silent_and_sound_is_in_sync_behind_it(codec: str, tmp_path: Path) -> None:
    """Opus, which HLS doesn't take, is encoded anew, AAC is copied; the sender is away for two seconds."""
    url, folder = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", tmp_path / "hls"
    command = clapper("-c:a", codec, "-f", "mpegts", f"{url}?pkt_size=1316")
    with ExitStack() as senders:
        running = [senders.enter_context(process(command))]

        def follow(event: dict[str, Any]) -> None:
            if event["frames"] > 4 * 25:
                running[0].kill()
            if event["events"].get("stand-in frames", 0) > 2 * 25 and len(running) == 1:
                running.append(senders.enter_context(process(command)))

        summary = streamer.enhance(
            f"{url}?timeout=20000000", f"hls:{folder}", duration=14, model="none", on_stats=follow
        )
    index = folder / "index.m3u8"
    assert summary.stand_ins > 2 * 25
    assert max(holes(index)[1:]) < HOLE_S, "but what is no longer in the playlist"
    found = pairs(index)
    assert len(found) >= 2
    assert max(map(abs, found)) <= TOLERANCE_S
    assert abs(summary.av_offset_ms[f"hls:{folder}"]) <= 1000 * TOLERANCE_S


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
