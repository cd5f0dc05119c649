"""Streams that are carried from one container to another as they are."""

from __future__ import annotations

import io
from pathlib import Path

import av

from streamer.forward import forward
from tests.clips import Clip


def test_a_stream_that_begins_later_is_left_out(tmp_path: Path) -> None:
    """PyAV 18 knows only the streams that were there at the beginning, and raises IndexError at a packet of another."""
    options = {"crf": "1", "preset": "ultrafast"}
    parts = []
    for first, last, audio in ((0, 30, None), (30, 40, "mp2"), (40, 70, None)):
        clip = Clip(320, 240, frames=last - first, pts=range(first, last), audio=audio, options=options)
        parts.append(clip.write(tmp_path / "part.ts").read_bytes())
    written = io.BytesIO()
    with av.open(io.BytesIO(b"".join(parts)), options={"probesize": "100000"}) as incoming:
        assert [stream.type for stream in incoming.streams] == ["video"]
        with av.open(written, "w", format="mpegts") as outgoing:
            forward(incoming, outgoing, list(incoming.streams))
    written.seek(0)
    with av.open(written, "r") as result:
        assert sum(packet.size > 0 for packet in result.demux()) == 70
