"""What child processes that carry a stream from one container to another have in common; see `streamer.child`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import av.error

from streamer.demux import packets_of
from streamer.errors import reason_of


def forward(incoming: Any, outgoing: Any, streams: Sequence[Any], on_header: Callable[[], None] | None = None) -> None:
    """Copies the packets of some streams of an open container into another as they come, and finishes that.

    Streams that begin later are left out. `on_header` is called when the header has been written, so the other side is
    there. PyAV's errors pass through.
    """
    copies = {stream.index: outgoing.add_stream_from_template(stream, opaque=True) for stream in streams}
    outgoing.start_encoding()
    if on_header is not None:
        on_header()
    for packet in packets_of(incoming, *streams):
        if packet.size:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = copies[packet.stream_index]
            outgoing.mux(packet)
    outgoing.close()


def say(text: str) -> None:
    """A line for the parent process."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run(work: Callable[[], None]) -> NoReturn:
    """The whole life of such a process: says why it failed, if it does, and exits with 1, or 130 when interrupted."""
    status = 0
    try:
        work()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        say(reason_of(error))
        status = 1
    except KeyboardInterrupt:
        status = 130
    # A connection or pipe that is broken would be written to again on the way out.
    os._exit(status)
