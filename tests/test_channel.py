"""The channel between two threads: order, bounds, the end, and cancellation."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamer.channel import Cancelled, Channel, Ended, Overflow, Woken

LIMIT_S = 10


def test_items_come_out_in_order_and_the_end_after_them() -> None:
    channel: Channel[int] = Channel("test", 3)
    for item in range(3):
        channel.put(item)
    channel.close()
    assert [channel.get() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Ended):
        channel.get()
    with pytest.raises(Ended):
        channel.put(3)


def test_iterating_gives_what_is_left_and_ends_there() -> None:
    channel: Channel[int] = Channel("test", 3)
    for item in range(3):
        channel.put(item)
    channel.close()
    assert list(channel) == [0, 1, 2]


def test_cancelling_is_not_the_end_for_who_iterates() -> None:
    channel: Channel[int] = Channel("test", 3)
    channel.put(0)
    items = iter(channel)
    assert next(items) == 0
    channel.cancel()
    with pytest.raises(Cancelled):
        next(items)


def test_a_full_channel_holds_its_writer_until_there_is_room() -> None:
    channel: Channel[int] = Channel("test", 2)
    with ThreadPoolExecutor(1) as pool:
        written = [pool.submit(channel.put, item) for item in range(5)]
        taken = [channel.get() for _ in range(5)]
        for future in written:
            future.result(LIMIT_S)
    assert taken == [0, 1, 2, 3, 4]
    assert channel.high_water == 2


def test_put_waits_no_longer_than_it_is_told() -> None:
    channel: Channel[int] = Channel("test", 1)
    channel.put(0, timeout_s=0)
    with pytest.raises(TimeoutError):
        channel.put(1, timeout_s=0.001)
    assert channel.get() == 0
    channel.put(2, timeout_s=0)
    assert channel.get() == 2


def test_drop_oldest_never_holds_its_writer_and_counts() -> None:
    channel: Channel[int] = Channel("test", 2, Overflow.DROP_OLDEST)
    for item in range(5):
        channel.put(item)
    assert channel.dropped == 3
    assert [channel.get(), channel.get()] == [3, 4]


def test_what_follows_a_dropped_item_inherits_from_it() -> None:
    channel: Channel[str] = Channel("test", 1, Overflow.DROP_OLDEST, lambda dropped, following: dropped + following)
    for item in "abc":
        channel.put(item)
    assert channel.get() == "abc"


@pytest.mark.parametrize("blocked", ["get", "put"])
def test_cancel_wakes_whoever_waits(blocked: str) -> None:
    channel: Channel[int] = Channel("test", 1)
    if blocked == "put":
        channel.put(0)
    started = threading.Event()

    def wait() -> None:
        started.set()
        if blocked == "get":
            channel.get()
        else:
            channel.put(1)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert started.wait(LIMIT_S)
        channel.cancel()
        with pytest.raises(Cancelled):
            waiting.result(LIMIT_S)
    with pytest.raises(Cancelled):
        channel.get()


def test_cancel_tells_how_many_items_it_discards() -> None:
    channel: Channel[int] = Channel("test", 3)
    for item in range(3):
        channel.put(item)
    assert [channel.cancel(), channel.cancel()] == [3, 0]


def test_close_wakes_a_waiting_reader() -> None:
    channel: Channel[int] = Channel("test", 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(channel.get)
        channel.close()
        with pytest.raises(Ended):
            waiting.result(LIMIT_S)


def test_cancel_discards_what_is_inside() -> None:
    channel: Channel[object] = Channel("test", 2)
    channel.put(object())
    channel.cancel()
    assert channel.depth == 0


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity of at least 1"):
        Channel("test", 0)


def test_a_reader_may_wait_for_a_bounded_time() -> None:
    channel: Channel[int] = Channel("test", 1)
    with pytest.raises(TimeoutError):
        channel.get(0.01)
    channel.put(1)
    assert channel.get(0) == 1
    channel.close()
    with pytest.raises(Ended):
        channel.get(0.01)


def test_a_wake_interrupts_the_reader_once_and_yields_to_items() -> None:
    channel: Channel[int] = Channel("test", 2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(channel.get)
        channel.wake()
        with pytest.raises(Woken):
            waiting.result(LIMIT_S)
        waiting = pool.submit(channel.get)
        channel.put(1)
        assert waiting.result(LIMIT_S) == 1
    channel.wake()
    channel.put(2)
    assert channel.get() == 2
    with pytest.raises(Woken):
        channel.get()
    channel.wake()
    channel.close()
    with pytest.raises(Woken):
        channel.get()
    with pytest.raises(Ended):
        channel.get()
