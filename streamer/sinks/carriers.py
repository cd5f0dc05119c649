"""What brings an encoded stream to its peer: a file for PyAV to write to, that can be stopped from another thread."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from streamer.child import Child, ffmpeg
from streamer.errors import UsageError, public_url
from streamer.sinks import pump
from streamer.sinks.outputs import Carrier, Output

_PACKET_BYTES = 188
_DATAGRAM_BYTES = 7 * _PACKET_BYTES
_SRT_IN = ("-probesize", "50000", "-analyzeduration", "100000", "-fpsprobesize", "0")
_SRT = ("-v", "error", "-nostats", "-progress", "pipe:2", *_SRT_IN, "-f", "mpegts", "-i", "pipe:0")
_SRT_OUT = ("-map", "0", "-c", "copy", "-f", "mpegts", "-flush_packets", "1")


class Pipe(Protocol):
    """Where the bytes go. `closed` tells PyAV that there is no use in finishing."""

    closed: bool
    connected: threading.Event

    def write(self, content: bytes) -> int: ...
    def complaint(self) -> str: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


def open_pipe(output: Output) -> tuple[Pipe | None, str]:
    """The pipe for `output` and the muxer for what goes into it; no pipe if PyAV writes files itself.

    Raises OSError, NoFFmpeg or UsageError.
    """
    if output.carrier is Carrier.FILES:
        return None, output.muxer
    if output.carrier is Carrier.STDOUT:
        return StandardOutput(), output.muxer
    if output.carrier is Carrier.UDP:
        return Datagrams(output.target), output.muxer
    if output.carrier is Carrier.SRT:
        return Child([ffmpeg("live"), *_SRT, *_SRT_OUT, output.target], writes=True), output.muxer
    child = Child(pump.command(), writes=True)
    try:
        child.write(pump.order(output.target, output.muxer, output.options))
    except BaseException:
        child.kill()
        child.close()
        raise
    return child, "nut"


class _Simple:
    """A pipe without a process behind it."""

    def __init__(self) -> None:
        self.closed = False
        self.connected = threading.Event()
        self.connected.set()

    def complaint(self) -> str:
        return ""

    def kill(self) -> None:
        """Can't be done: a blocked write stays so until its peer moves."""


class StandardOutput(_Simple):
    """Standard output as it was when the process began; closing leaves it open."""

    def write(self, content: bytes) -> int:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(1, rest) :]
        return len(content)

    def close(self) -> None:
        self.closed = True


class Datagrams(_Simple):
    """MPEG-TS over UDP: `udp://HOST:PORT[?ttl=N]`. Never waits for the peer.

    A datagram has up to seven packets of 188 bytes. Each write is sent whole: what didn't fill a datagram would
    otherwise wait for the next frame, and so would the decoder.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise UsageError(f"can't send to {public_url(url)}: write udp://HOST:PORT")
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind)
        ttl = dict(parse_qsl(parts.query)).get("ttl")
        if ttl is not None:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, int(ttl))
        self._address = address
        self._rest = b""

    def write(self, content: bytes) -> int:
        whole = self._rest + content
        end = len(whole) - len(whole) % _PACKET_BYTES
        for start in range(0, end, _DATAGRAM_BYTES):
            self._send(whole[start : min(end, start + _DATAGRAM_BYTES)])
        self._rest = whole[end:]
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._send(self._rest)
            self.closed = True
            self._socket.close()

    def _send(self, datagram: bytes) -> None:
        if not datagram:
            return
        with contextlib.suppress(ConnectionRefusedError):  # nobody listens yet, which is none of UDP's business
            self._socket.sendto(datagram, self._address)
