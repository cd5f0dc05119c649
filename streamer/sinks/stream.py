"""One connection to a live output: frames are encoded with little delay and sent as they come."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import av
import av.error

from streamer.color import explicit
from streamer.errors import SinkError, StreamerError, public_url, reason_of
from streamer.ffmpeg import Child, NoFFmpeg
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.fitting import Fitter
from streamer.sinks.lowlatency import live_encoder
from streamer.sinks.outputs import Output
from streamer.sinks.sound import Sounds
from streamer.sinks.track import PictureTrack
from streamer.stage import Media
from streamer.timeline import TIME_BASE

log = logging.getLogger(__name__)

_INTERLEAVE_US = 300_000
_CHILD_IN = ("-fflags", "+nobuffer", "-probesize", "50000", "-analyzeduration", "100000", "-fpsprobesize", "0")
_CHILD = (*_CHILD_IN, "-f", "mpegts", "-i", "pipe:0", "-map", "0", "-c", "copy", "-f", "mpegts", "-flush_packets", "1")


class StreamSink:
    """Sends frames to one network peer, playlist or pipe until either side ends.

    Times begin at zero with the first frame written. `open`, `write` and `close` may block for as long as the peer
    does (see QueuedSink); `kill` ends that from another thread where a child process makes the connection, and can't
    elsewhere. Packets must be detached.
    """

    def __init__(self, url: str, output: Output, settings: EncoderSettings, notes: Notes) -> None:
        self.name = public_url(url)
        self.notes = notes
        self._output = output
        self._settings = settings
        self._container: Any = None
        self._child: Child | None = None
        self._killed = False

    @property
    def counts(self) -> dict[str, int]:
        return {}

    def open(self, format: VideoFormat, media: Media) -> None:
        self._format = explicit(format)
        self._media = media
        self._started = False

    def write(self, frame: Frame) -> None:
        try:
            if not self._started:
                self._start(frame)
            self._track.write(frame)
            self._sounds.mux(frame.packets)
        except (av.error.FFmpegError, OSError, ValueError, NoFFmpeg) as error:
            raise self._error("write to" if self._started else "connect to", error) from error

    def close(self) -> None:
        if self._container is None:
            return
        try:
            self._sounds.finish()
            self._track.finish()
            container, self._container = self._container, None
            container.close()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("finish", error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        container, self._container = self._container, None
        if self._child is not None and container is not None:
            self._child.kill()
        if container is not None:
            # A peer that is gone makes closing fail as well.
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                container.close()
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def kill(self) -> None:
        """Makes a blocked call fail soon, if that can be done. Any thread."""
        self._killed = True
        child = self._child
        if child is not None:
            child.kill()

    def _start(self, frame: Frame) -> None:
        """Connects; the header goes out now, so that a refusing peer is known at once."""
        encoder, settings, options = live_encoder(self._settings, self._format)
        fitter = Fitter(encoder, settings, self._format, self.notes)
        self._container = self._connected()
        self._track = PictureTrack(self._container, encoder, options, fitter, self._format, settings)
        self._track.shift_s = -frame.time
        self._sounds = Sounds(self._container, self._media.companions, self._output, -frame.time, self.notes)
        self._track.start(TIME_BASE)
        self._started = True

    def _connected(self) -> Any:
        output = self._output
        options = {"flush_packets": "1", "max_interleave_delta": str(_INTERLEAVE_US), **output.options}
        if not output.child:
            return av.open(output.target, "w", format=output.muxer, options=options)
        self._child = Child("live", [*_CHILD, output.target], writes=True)
        if self._killed:
            self._child.kill()
        return av.open(self._child, "w", format=output.muxer, options=options)

    def _error(self, verb: str, error: BaseException) -> BaseException:
        if isinstance(error, StreamerError):
            return error
        reason = (self._child.complaint() if self._child is not None else "") or reason_of(error)
        return SinkError(f"can't {verb} {self.name}: {reason}; check the address, and that the peer accepts streams")
