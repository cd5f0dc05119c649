"""One connection to a live input: opened with time limits, read until it ends, closed with everything it started."""

from __future__ import annotations

import glob
import threading
from collections.abc import Iterator
from typing import Any

import av
import av.error

from streamer.child import Child, NoFFmpeg, ffmpeg
from streamer.convert import TOLERANT
from streamer.demux import packets_of
from streamer.errors import SourceError, public_url, reason_of
from streamer.sources import listen
from streamer.sources.inputs import Input
from streamer.sources.opening import pick_video

_CHILD_BUFFER_BYTES = 4 * 1316
_MAX_DEMUX_ERRORS = 100
_IN = ("-nostdin", "-f", "data", "-i")
_OUT = ("-map", "0", "-c", "copy", "-f", "data", "-flush_packets", "1", "pipe:1")
"""As data, the child looks into nothing: it neither waits nor changes a byte."""


class Unrepeatable(SourceError):
    """A failure that another try can't mend: there is no video, no such protocol, no FFmpeg program."""


class Lost(SourceError):
    """The connection can't be made or has ended; the message says why."""


class Over(SourceError):
    """The input has ended and said so: there is nothing to connect to again."""


class Connection:
    """An open live input: `container`, its picture stream `video` and its `sounds`.

    `is_finite` says that it is a playlist to which nothing will be added, so that its end is no loss. Opened, read and
    closed on one thread; `kill` alone may come from another. Raises Lost, Over or Unrepeatable.
    """

    def __init__(self, input: Input, url: str, stop: threading.Event) -> None:
        self._input = input
        self._name = public_url(url)
        self._stop = stop
        self._child: Child | None = None
        self.container: Any = None
        self.is_finite = False
        self.corrupt = 0

    def open(self) -> None:
        try:
            self.container = self._opened()
            self.video = pick_video(self.container, self._name)
        except (av.error.ProtocolNotFoundError, NoFFmpeg) as error:
            raise Unrepeatable(f"can't open {self._name}: {reason_of(error)}") from error
        except SourceError as error:  # no video, or no decoder for it
            raise Unrepeatable(str(error)) from error
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise Lost(self._why(error)) from error
        # FFmpeg's demuxer knows how long a list is only if that is on demand, or has its end mark.
        self.is_finite = self.container.format.name == "hls" and bool(self.container.duration)
        self.sounds = list(self.container.streams.audio)
        self.video.thread_type = "SLICE"  # frame threads would hold back a picture each

    def packets(self) -> Iterator[Any]:
        """Packets of picture and sound until `stop` is set. Raises Lost at the end, however it came, or Over."""
        wanted = [self.video, *self.sounds]
        errors = 0
        while True:
            try:
                for packet in packets_of(self.container, *wanted):
                    if self._stop.is_set():
                        return
                    errors = 0
                    if packet.size:
                        yield packet
                raise Over("its playlist has ended") if self.is_finite else Lost(self._ending())
            except av.error.InvalidDataError as error:
                errors += 1
                self.corrupt += 1
                if errors > _MAX_DEMUX_ERRORS:
                    raise Lost("its data is damaged beyond reading") from error
            except av.error.ExitError as error:
                raise Lost(f"it was silent for {self._input.read_s:g} s") from error
            except (av.error.FFmpegError, OSError) as error:
                raise Lost(reason_of(error)) from error

    def kill(self) -> None:
        """Wakes a reader that waits for the child, if there is one. Any thread."""
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """Harmless when repeated."""
        container, self.container = self.container, None
        if container is not None:
            container.close()
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.close()

    def _opened(self) -> Any:
        input = self._input
        limits = (input.open_s, input.read_s)
        if not input.child:
            return av.open(input.target, format=input.format, options=dict(input.options), timeout=limits, **TOLERANT)
        self._child = self._started()
        if self._stop.is_set():  # set before the child was there to be killed
            self._child.kill()
        return av.open(
            self._child.pipe,
            format=input.format,
            options=dict(input.options),
            timeout=limits,
            buffer_size=_CHILD_BUFFER_BYTES,
            **TOLERANT,
        )

    def _started(self) -> Child:
        target = self._input.target
        if self._input.child == "rtmp":
            return Child(listen.command(), writes=False, secrets={listen.URL: target}, title=self._name)
        return Child([ffmpeg("live"), "-v", "error", *_IN, target, *_OUT], writes=False)

    def _ending(self) -> str:
        complaint = self._child.complaint() if self._child is not None else ""
        return f"the stream ended ({complaint})" if complaint else "the stream ended"

    def _why(self, error: BaseException) -> str:
        """Why it can't be opened, and what to do; without the URL, which the caller names."""
        said = self._child.complaint() if self._child is not None else ""
        if "BADSECRET" in said:
            return "the peer refuses the passphrase; check passphrase= in the URL"
        if said:
            return f"{said}; check address, port, mode and passphrase, and that the peer is there"
        if isinstance(error, (av.error.ExitError, av.error.TimeoutError)):
            return f"no answer within {self._input.open_s:g} s; check the address, and that nothing blocks it"
        if isinstance(error, av.error.InvalidDataError):
            return f"no stream that FFmpeg knows came within {self._input.open_s:g} s"
        if isinstance(error, ConnectionRefusedError):
            return "connection refused; check that the server runs, and its port"
        if isinstance(error, av.error.HTTPUnauthorizedError):
            return "the server wants another user name or password; write them as scheme://user:password@host/…"
        if isinstance(error, av.error.HTTPNotFoundError):
            return "the server has no such stream; check the path, and that somebody publishes there"
        if self._input.format == "x11grab":
            return f"{reason_of(error)}; is there an X11 display of that name, and of that size? Wayland has none"
        if self._input.format == "v4l2":
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "no camera"
            hint = "another program uses it" if isinstance(error, av.error.OSError) else f"this machine has {present}"
            return f"{reason_of(error)}; {hint}"
        return f"{reason_of(error)}; check host name, port and path, and that the peer is there"
