"""A child process that publishes: NUT comes in on standard input, and goes out to a network address as it is.

`python -m streamer.sinks.pump` reads one line of JSON first (target, muxer, options), so that credentials appear in no
list of processes. It says "progress=connected" on standard error, or why it failed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import av

from streamer.child import CONNECTED
from streamer.forward import forward, run, say

_PROBE = {"analyzeduration": "1", "fpsprobesize": "0"}
_BUFFER_BYTES = 4096


def command() -> list[str]:
    """What starts this module as a child."""
    return [sys.executable, "-m", "streamer.sinks.pump"]


def order(target: str, muxer: str, options: dict[str, str]) -> bytes:
    """The first line for the child."""
    return json.dumps({"target": target, "muxer": muxer, "options": options}).encode() + b"\n"


def _pump() -> None:
    with open(0, "rb", buffering=0, closefd=False) as source:
        told = json.loads(source.readline())
        with av.open(source, format="nut", options=_PROBE, buffer_size=_BUFFER_BYTES) as incoming:
            outgoing: Any = av.open(told["target"], "w", format=told["muxer"], options=told["options"])
            forward(incoming, outgoing, list(incoming.streams), lambda: say(f"{CONNECTED}connected"))


if __name__ == "__main__":
    run(_pump)
