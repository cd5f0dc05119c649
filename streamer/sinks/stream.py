"""One connection to a live output: frames are encoded with little delay and sent as they come."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import av
import av.error

from streamer.child import NoFFmpeg
from streamer.color import explicit
from streamer.errors import SinkError, StreamerError, public_url, reason_of
from streamer.frame import Frame, VideoFormat
from streamer.notes import Notes
from streamer.sinks.carriers import Pipe, open_pipe
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.fitting import Fitter
from streamer.sinks.lowlatency import live_encoder
from streamer.sinks.outputs import Output
from streamer.sinks.sound import Sounds
from streamer.sinks.track import PictureTrack
from streamer.stage import Media
from streamer.sync import SyncMeter
from streamer.timeline import TIME_BASE

_INTERLEAVE_US = 300_000


class StreamSink:
    """Sends frames to one network peer, playlist or pipe until either side ends.

    Times begin at zero with the first frame written. `write` and `close` may block for as long as the peer does (see
    QueuedSink); `kill` ends that from another thread, but for standard output. Packets must be detached. `sync` hears
    of everything that is sent.
    """

    def __init__(self, url: str, output: Output, settings: EncoderSettings, notes: Notes, sync: SyncMeter) -> None:
        self.name = public_url(url)
        self.notes = notes
        self._output = output
        self._settings = settings
        self._sync = sync
        self._started = False
        self._container: Any = None
        self._pipe: Pipe | None = None
        self._killed = False

    @property
    def counts(self) -> dict[str, int]:
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether the peer is known to be there (for UDP and files: the first frame was written)."""
        return self._started and (self._pipe is None or self._pipe.connected.is_set())

    def open(self, format: VideoFormat, media: Media) -> None:
        self._format = explicit(format)
        self._media = media
        self._started = False

    def write(self, frame: Frame) -> None:
        try:
            if not self._started:
                self._start(frame)
            self._track.write(frame)
            self._sounds.mux(frame.packets, frame.time)
        except (av.error.FFmpegError, OSError, ValueError, NoFFmpeg) as error:
            raise self._error("write to" if self.is_connected else "connect to", error) from error

    def close(self) -> None:
        if self._container is None:
            return
        try:
            self._sounds.finish()
            self._track.finish()
            container, self._container = self._container, None
            container.close()
            if self._pipe is not None:
                self._pipe.close()
                if not self._pipe.connected.is_set():
                    raise OSError("the stream ended before the connection was made")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error("finish", error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        container, self._container = self._container, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.kill()
            pipe.close()
        if container is not None:
            # A peer that is gone makes closing fail as well.
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                container.close()

    def kill(self) -> None:
        """Makes a blocked call fail soon. Any thread."""
        self._killed = True
        pipe = self._pipe
        if pipe is not None:
            pipe.kill()

    def _start(self, frame: Frame) -> None:
        """Connects; the header goes out now, so that a refusing peer is known at once."""
        encoder, settings, options = live_encoder(self._settings, self._format)
        fitter = Fitter(encoder, settings, self._format, self.notes)
        options_of_muxer = {"flush_packets": "1", "max_interleave_delta": str(_INTERLEAVE_US)}
        self._pipe, muxer = open_pipe(replace(self._output, options=options_of_muxer | self._output.options))
        if self._killed and self._pipe is not None:
            self._pipe.kill()
        if muxer == self._output.muxer:
            options_of_muxer |= self._output.options
        self._container = av.open(self._pipe or self._output.target, "w", format=muxer, options=options_of_muxer)
        self._track = PictureTrack(self._container, encoder, options, fitter, self._format, settings, self._sync)
        self._track.shift_s = -frame.time
        self._sounds = Sounds(self._container, self._media, self._output, -frame.time, self.notes, self._sync)
        self._track.start(TIME_BASE)
        self._started = True

    def _error(self, verb: str, error: BaseException) -> BaseException:
        if isinstance(error, StreamerError):
            return error
        complaint = self._pipe.complaint() if self._pipe is not None else ""
        reason = complaint or ("the peer took nothing for too long" if self._killed else reason_of(error))
        return SinkError(f"can't {verb} {self.name}: {reason}; check the address, and that the peer accepts streams")
