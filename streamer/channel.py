"""The only way from one thread to another: a bounded, named queue with a stated policy for when it is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The channel is closed and empty: nothing more will come."""


class Cancelled(Exception):
    """The channel was cancelled: its contents are gone and nobody must go on."""


class Woken(Exception):
    """Somebody called `wake`, and there is no item: the reader has something else to do."""


class Overflow(Enum):
    """What `put` does on a full channel."""

    BLOCK = "block"
    DROP_OLDEST = "drop-oldest"


class Channel(Generic[T]):
    """A bounded first-in-first-out queue between two threads.

    `close()` lets the reader drain what is there and then raises Ended; `cancel()` discards it and wakes everybody
    with Cancelled. The end is out-of-band: no sentinel ever lies in the queue. `wait_put_ns` is how long the
    writer waited in all; `high_water` is the largest depth seen. When an item is dropped,
    `inherit(dropped, following)` gives what takes the place of the item after it.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        overflow: Overflow = Overflow.BLOCK,
        inherit: Callable[[T, T], T] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"channel {name!r} needs a capacity of at least 1, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.overflow = overflow
        self.high_water = 0
        self.dropped = 0
        self.wait_put_ns = 0
        self._inherit = inherit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._cancelled = False
        self._woken = False

    @property
    def depth(self) -> int:
        """Items waiting now."""
        return len(self._items)

    def put(self, item: T, timeout_s: float | None = None) -> None:
        """Appends `item`; on a full channel waits (BLOCK), or removes and counts the oldest (DROP_OLDEST).

        Raises Cancelled after `cancel()`, Ended after `close()`, TimeoutError if there is no room after `timeout_s`
        (None: waits for ever).
        """
        with self._changed:
            if self.overflow is Overflow.BLOCK and len(self._items) >= self.capacity:
                started = time.monotonic_ns()
                has_room = self._changed.wait_for(lambda: self._stopped or len(self._items) < self.capacity, timeout_s)
                self.wait_put_ns += time.monotonic_ns() - started
                if not has_room:
                    raise TimeoutError(self.name)
            self._raise_if_cancelled()
            if self._closed:
                raise Ended(self.name)
            self._items.append(item)
            if len(self._items) > self.capacity:
                displaced = self._items.popleft()
                self.dropped += 1
                if self._inherit is not None:
                    self._items[0] = self._inherit(displaced, self._items[0])
            self.high_water = max(self.high_water, len(self._items))
            self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> T:
        """Removes and returns the oldest item, waiting for one.

        Raises Ended when closed and drained, Cancelled, TimeoutError after `timeout_s` (None: waits for ever), or Woken
        once after `wake` if there is no item.
        """
        with self._changed:
            if not self._items:
                self._changed.wait_for(lambda: self._items or self._stopped or self._woken, timeout_s)
            self._raise_if_cancelled()
            if not self._items:
                if self._woken:
                    self._woken = False
                    raise Woken(self.name)
                if not self._closed:
                    raise TimeoutError(self.name)
                raise Ended(self.name)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        """The items as they come, to the end. Raises Cancelled; for a channel that nobody wakes."""
        while True:
            try:
                item = self.get()
            except Ended:
                return
            yield item

    def wake(self) -> None:
        """Interrupts the reader's wait, now or next time, without an item. Any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """No more items will be put; those inside may still be taken. Harmless when repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> int:
        """Discards the items and wakes both sides with Cancelled; how many there were. Harmless when repeated."""
        with self._changed:
            discarded = len(self._items)
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()
            return discarded

    @property
    def _stopped(self) -> bool:
        return self._closed or self._cancelled

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled(self.name)
