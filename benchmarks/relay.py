"""A small RTSP server: publish to any path, play from it, and everything that goes wrong on the way, on demand.

TCP-interleaved only (RFC 2326, chapter 10.12). Runs an asyncio loop on a thread of its own; all public methods are for
the user's thread.
"""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

LIMIT_S = 20
_MAX_BACKLOG_BYTES = 1 << 20
_TRACK = re.compile(r"(?P<path>.*?)/?(?:streamid|trackID|track)=(?P<track>\d+)$")


@dataclass(eq=False)
class Client:
    """One connection, publishing or playing. `channels`: interleaved channel to (track, 0 RTP | 1 RTCP), or back."""

    writer: asyncio.StreamWriter
    path: str = ""
    tracks: int = 0
    publishes: bool = False
    plays: bool = False
    inward: dict[int, tuple[int, int]] = field(default_factory=dict)
    outward: dict[tuple[int, int], int] = field(default_factory=dict)


class RtspRelay:
    """A context manager; `url(path)` is where to publish and play.

    With `password` ("name:password") players must show it (HTTP's Basic scheme). `rewrite` changes the descriptions
    that they get.
    """

    def __init__(self, password: str = "", rewrite: Callable[[str], str] = str) -> None:
        self.port = 0
        self._password, self._rewrite = password, rewrite
        self._descriptions: dict[str, str] = {}
        self._clients: set[Client] = set()
        self._stalled = False
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def url(self, path: str = "cam", password: str = "") -> str:
        return f"rtsp://{password + '@' if password else ''}127.0.0.1:{self.port}/{path}"

    def __enter__(self) -> RtspRelay:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._call(self._drain)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    # -- faults ----------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Forwards nothing from now on; connections stay."""
        self._stalled = True

    def resume(self) -> None:
        self._stalled = False

    def drop_publishers(self) -> None:
        self._call(lambda: self._abort(lambda client: client.publishes))

    def refuse(self) -> None:
        """Closes the port and every connection: the server is gone."""

        def close() -> None:
            if self._server is not None:
                self._server.close()
            self._abort(lambda client: True)

        self._call(close)

    def accept(self) -> None:
        """Opens the port (again)."""

        async def listen() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(LIMIT_S)

    # -- what is going on ------------------------------------------------------------------------------------------

    def wait_published(self, path: str = "cam") -> None:
        """Returns when somebody publishes there. Raises TimeoutError after LIMIT_S."""

        def is_published() -> bool:
            return any(client.publishes and client.path == f"/{path}" for client in self._clients)

        with self._changed:
            if not self._changed.wait_for(is_published, LIMIT_S):
                raise TimeoutError(f"nobody publishes {self.url(path)} after {LIMIT_S:g} s")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _call(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(LIMIT_S)

    def _drain(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            if task is not asyncio.current_task(self._loop):
                task.cancel()

    def _abort(self, chosen: Callable[[Client], bool]) -> None:
        for client in list(self._clients):
            if chosen(client):
                client.writer.transport.abort()

    # -- the server, on the loop's thread --------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        self._clients.add(client)
        try:
            while True:
                first = await reader.readexactly(1)
                if first == b"$":
                    head = await reader.readexactly(3)
                    self._forward(client, head, await reader.readexactly(head[1] << 8 | head[2]))
                elif not await self._answer(client, reader, first):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(client)
            if client.publishes:
                self._descriptions.pop(client.path, None)
                self._abort(lambda other: other.plays and other.path == client.path)
            writer.close()
            self._tell()

    def _forward(self, client: Client, head: bytes, content: bytes) -> None:
        if not client.publishes or self._stalled:
            return
        for player in self._clients:
            channel = player.outward.get(client.inward[head[0]])
            backlog = player.writer.transport.get_write_buffer_size()
            if player.plays and player.path == client.path and channel is not None and backlog < _MAX_BACKLOG_BYTES:
                player.writer.write(b"$" + bytes([channel]) + head[1:] + content)

    async def _answer(self, client: Client, reader: asyncio.StreamReader, first: bytes) -> bool:
        lines = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, url, *_ = lines[0].split(" ")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = re.sub(r"^rtsp://[^/]*", "", url).partition("?")[0].rstrip("/")
        status, extra, answer = self._reply(client, method, path, headers, body.decode())
        head = f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', 0)}\r\nSession: 1;timeout=60\r\n{extra}"
        length = f"Content-Length: {len(answer)}\r\n" if answer else ""
        client.writer.write(f"{head}{length}\r\n{answer}".encode())
        if method == "PLAY" and status == "200 OK":
            client.plays = True  # after the answer: packets must not come before it
        self._tell()
        return method != "TEARDOWN"

    def _reply(
        self, client: Client, method: str, path: str, headers: dict[str, str], body: str
    ) -> tuple[str, str, str]:
        if method == "ANNOUNCE":
            client.path, client.publishes = path, True
            self._descriptions[path] = body
        elif method == "DESCRIBE":
            if self._password and not self._may_play(headers):
                return "401 Unauthorized", 'WWW-Authenticate: Basic realm="relay"\r\n', ""
            if path not in self._descriptions:
                return "404 Not Found", "", ""
            return (
                "200 OK",
                f"Content-Base: {path}/\r\nContent-Type: application/sdp\r\n",
                self._rewrite(self._descriptions[path]),
            )
        elif method == "SETUP":
            if "TCP" not in headers["transport"]:
                return "461 Unsupported Transport", "", ""
            return "200 OK", self._set_up(client, path, headers["transport"]), ""
        elif method == "OPTIONS":
            return "200 OK", "Public: OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, RECORD, TEARDOWN\r\n", ""
        return "200 OK", "", ""

    def _may_play(self, headers: dict[str, str]) -> bool:
        expected = base64.b64encode(self._password.encode()).decode()
        return headers.get("authorization") == f"Basic {expected}"

    def _set_up(self, client: Client, path: str, transport: str) -> str:
        match = _TRACK.match(path)
        track = int(match["track"]) if match else client.tracks
        if not client.publishes:
            client.path = match["path"] if match else path
        asked = re.search(r"interleaved=(\d+)-(\d+)", transport)
        channels = (int(asked[1]), int(asked[2])) if asked else (2 * client.tracks, 2 * client.tracks + 1)
        client.tracks += 1
        for kind, channel in enumerate(channels):
            client.inward[channel] = (track, kind)
            client.outward[track, kind] = channel
        return f"Transport: RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}\r\n"
