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
from streamer.errors import reason_of

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
        _say(f"{WARNING}somebody who gave another application or stream key was refused")


def _forward(container: Any) -> None:
    options = {"flush_packets": "1", "max_interleave_delta": "300000"}
    with open(1, "wb", buffering=0, closefd=False) as pipe:
        outgoing: Any = av.open(pipe, "w", format="nut", options=options)
        streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
        copies = {stream.index: outgoing.add_stream_from_template(stream, opaque=True) for stream in streams}
        outgoing.start_encoding()
        for packet in container.demux(*streams):
            if packet.size:
                packet.stream = copies[packet.stream_index]
                outgoing.mux(packet)
        outgoing.close()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    status = 0
    try:
        _forward(_accepted(os.environ[URL]))
    except av.error.ExitError:
        _say(f"the publisher was silent for {_SILENCE_S:g} s")
        status = 1
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _say(reason_of(error))
        status = 1
    except KeyboardInterrupt:
        status = 130
    # A pipe that nobody reads any more would be written to again on the way out.
    os._exit(status)


if __name__ == "__main__":
    main()
