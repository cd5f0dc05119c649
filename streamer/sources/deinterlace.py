"""Interlaced pictures become progressive ones, as many as before."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import av.filter

from streamer.notes import Notes


class Deinterlacer:
    """FFmpeg's bwdif, one frame per frame; pictures that are progressive pass unchanged.

    Nothing is set up until the first interlaced picture comes; from then on the filter holds one picture back.
    `deinterlaced` counts. Picture times may leave in a finer unit than they came in.
    """

    def __init__(self, notes: Notes, time_base: Fraction) -> None:
        self.deinterlaced = 0
        self._notes = notes
        self._time_base = time_base
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def process(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The pictures that are ready after `picture` went in."""
        if self._graph is None and not picture.interlaced_frame:
            yield picture
            return
        shape = (picture.width, picture.height, picture.format.name)
        if shape != self._shape:  # a filter takes one format; the stream may change in the middle
            yield from self.flush()
            self._graph, self._shape = self._bwdif(picture), shape
        assert self._graph is not None
        self.deinterlaced += picture.interlaced_frame
        self._graph.push(picture)
        yield from self._pulled(self._graph)

    def flush(self) -> Iterator[av.VideoFrame]:
        """The pictures still held back; the next one starts anew."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled(self._graph)
            self._graph = self._shape = None

    def _bwdif(self, picture: av.VideoFrame) -> av.filter.Graph:
        if not self.deinterlaced:
            self._notes.say("it is interlaced: deinterlacing with bwdif, one frame per frame")
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=self._time_base
        )
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph

    def _pulled(self, graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
        while True:
            try:
                picture = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(picture, av.VideoFrame)
            yield picture
