"""Reading packets from an open container although its streams may become more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def packets_of(container: Any, *streams: Any, on_unknown: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """The packets of `streams` (none named: of all), then an empty one for each, as PyAV's `demux` gives them.

    PyAV 18 knows only the streams that were there at the beginning, and raises IndexError at a packet of one that
    began later: such packets are passed over, and `on_unknown` is called for each. PyAV's other errors pass through.
    """
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:
            on_unknown()
