"""A child process that publishes: NUT comes in on standard input, and goes out to a network address as it is.

`python -m streamer.sinks.pump` reads one line of JSON first (target, muxer, options), so that credentials appear in no
list of processes. It says "progress=connected" on standard error, or why it failed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import av
import av.error

from streamer.child import CONNECTED
from streamer.errors import reason_of

_PROBE = {"analyzeduration": "1", "fpsprobesize": "0"}
_BUFFER_BYTES = 4096


def command() -> list[str]:
    """What starts this module as a child."""
    return [sys.executable, "-m", "streamer.sinks.pump"]


def order(target: str, muxer: str, options: dict[str, str]) -> bytes:
    """The first line for the child."""
    return json.dumps({"target": target, "muxer": muxer, "options": options}).encode() + b"\n"


def _pump(source: Any, target: str, muxer: str, options: dict[str, str]) -> None:
    with av.open(source, format="nut", options=_PROBE, buffer_size=_BUFFER_BYTES) as incoming:
        outgoing: Any = av.open(target, "w", format=muxer, options=options)
        copies = [outgoing.add_stream_from_template(stream, opaque=True) for stream in incoming.streams]
        outgoing.start_encoding()
        _say(f"{CONNECTED}connected")
        for packet in incoming.demux():
            if packet.size:
                packet.dts = packet.pts if packet.dts is None else packet.dts
                packet.stream = copies[packet.stream_index]
                outgoing.mux(packet)
        outgoing.close()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    status = 0
    try:
        with open(0, "rb", buffering=0, closefd=False) as source:
            _pump(source, **json.loads(source.readline()))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _say(reason_of(error))
        status = 1
    except KeyboardInterrupt:
        status = 130
    # A connection that is broken would be written to again on the way out.
    os._exit(status)


if __name__ == "__main__":
    main()
