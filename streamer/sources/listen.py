"""A child process that is an RTMP server for one publisher: what that sends comes out on standard output, as NUT.

`python -m streamer.sources.listen` takes the URL from its environment, so that the stream key appears in no list of
processes. FFmpeg accepts every application and stream key and only warns of a wrong one; a process of its own can watch
for that warning, because nobody else changes its logging. A process can also be killed while it waits.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import av
import av.error
import av.logging

from streamer.child import WARNING
from streamer.forward import forward, run, say

URL = "STREAMER_LISTEN_URL"
"""The environment variable that says where to listen: rtmp://HOST:PORT/APPLICATION/KEY."""

_WRONG = ("Unexpected stream", "App field don't match")
"""What FFmpeg (rtmpproto.c) says of a publisher who asks for another stream or application."""
_OPTIONS = {"listen": "1", "analyzeduration": "2000000", "fpsprobesize": "0"}
_SLICE_S = 60.0
"""So long at most does somebody who connects and says nothing keep others out."""
_SILENCE_S = 3.0


def command() -> list[str]:
    """What starts this module as a child."""
    return [sys.executable, "-m", "streamer.sources.listen"]


def _accepted(url: str) -> Any:
    """The first publisher who knows the key."""
    av.logging.set_skip_repeated(False)
    while True:
        av.logging.set_level(av.logging.WARNING)
        try:
            with av.logging.Capture(local=False) as said:
                container = av.open(url, options=dict(_OPTIONS), timeout=(_SLICE_S, _SILENCE_S))
        except (av.error.ExitError, av.error.InvalidDataError, av.error.EOFError, ConnectionError):
            continue  # nobody came, or somebody who speaks no RTMP or left again
        finally:
            av.logging.set_level(None)
        if not any(sign in message for _, _, message in said for sign in _WRONG):
            return container
        container.close()
        say(f"{WARNING}somebody who gave another application or stream key was refused")


def _serve() -> None:
    options = {"flush_packets": "1", "max_interleave_delta": "300000"}
    publisher = _accepted(os.environ[URL])
    streams = [stream for stream in publisher.streams if stream.type in ("video", "audio")]
    try:
        with open(1, "wb", buffering=0, closefd=False) as pipe:
            forward(publisher, av.open(pipe, "w", format="nut", options=options), streams)
    except av.error.ExitError as error:
        raise OSError(f"the publisher was silent for {_SILENCE_S:g} s") from error


if __name__ == "__main__":
    run(_serve)
