"""The engine: a network opened on a device, with a fixed number of inferences in flight."""

from __future__ import annotations

import contextlib
import re
import textwrap
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

Array = NDArray[Any]

_REASON_LENGTH = 300
_NEXT = "_next"
_OUT_OF_MEMORY = re.compile(
    r"out.?of.?memory|ALLOC_FAILED|failed to allocate (\d+ bytes of )?memory|bad_alloc", re.IGNORECASE
)
_VENDOR_NOISE = re.compile(r"(Caught exception: )?Exception from \S+:\d+:|Check '[^']*' failed at \S+:\d+:|/\S+:\d+ ")


class EngineError(RuntimeError):
    """An engine could not do what was asked.

    The message says what was tried, on what, why it failed and what to do.
    """


class InferenceError(EngineError):
    """An inference could not be started, or failed; the engine may be of no use any more."""


class OutOfMemoryError(EngineError):
    """The device or the system has too little memory for what was asked; smaller pictures may fit."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of an open engine."""

    name: str
    shape: tuple[int, ...]
    """Every dimension is known: an engine is opened for one picture size."""
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class SlotBuffers:
    """The host memory of one slot, allocated at open and reused for every inference in it."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]

    @classmethod
    def allocate(cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Self:
        """Zeroed, C-contiguous NumPy arrays for every tensor."""
        return cls(
            {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs},
            {spec.name: np.zeros(spec.shape, spec.dtype) for spec in outputs},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """The receipt for one submitted inference; compared by identity, good for one collect."""

    number: int
    """Counts the submissions of one engine, from 0, across re-opens."""


class Engine(ABC):
    """Runs one network on one device for one picture size.

    `open`, `submit`, `collect` and `close` must be called on one and the same thread, because
    GPU contexts belong to the thread that made them. Another thread gets an `EngineError`.
    Several inferences may be in flight, one per slot; they may be collected in any order, and
    each result belongs to the feeds of its own ticket.

        with OpenVINOEngine(model, {"luma": (1, 1, 360, 640)}) as engine:
            ticket = engine.submit({"luma": luma, "strength": strength})
            enhanced = engine.collect(ticket)["enhanced"]  # copy it to keep it

    A network may carry something from picture to picture: an input `x` and an output `x_next`, alike in type and shape,
    are a state. It is zero after `open`; every inference then reads what the one submitted before it wrote, in whatever
    slots they are. Nobody feeds or gets it. An inference that can't be submitted leaves it as it was; after one that
    failed it is undefined.

    All checks are made once, here. A back end overrides `_open`, `_submit`, `_collect` and
    `_close`, may raise anything from them, and need not repeat a check.
    """

    name: ClassVar[str]
    """The name of the back end, as in the table of engines."""
    on_gpu: ClassVar[bool] = False
    """Whether it computes on a GPU, whose results nobody but the user can check."""
    keeps_state: ClassVar[bool] = False
    """Whether a network's state stays on the device; else it is copied from slot to slot on the host, and inferences
    don't overlap."""
    tells: ClassVar[bool] = False
    """Whether `on_done` is called, and `ready` is of use."""
    can_move: ClassVar[bool] = False
    """Whether another thread may `adopt` it."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise EngineError(f"cannot make a {self.name} engine with {slots} slots: use 1 or more")
        self.slots = slots
        """How many inferences may be in flight; a back end may lower it while opening."""
        self.precision = "f32"
        """Of the convolutions: "f32", "f16" or "int8"."""
        self.inputs: tuple[TensorSpec, ...] = ()
        """Known after `open`, and empty before."""
        self.outputs: tuple[TensorSpec, ...] = ()
        """Known after `open`, and empty before."""
        self.state: tuple[TensorSpec, ...] = ()
        """What one inference leaves to the next; known after `open`, and empty before."""
        self.on_done: Callable[[], None] | None = None
        """Called after every inference, by a thread of the back end's, so it must be short; set it before `open`."""
        self.latency_ns = 0
        """Of the inference that was collected last: from `submit` to its end, or to `collect` where nobody tells."""
        self._owner: threading.Thread | None = None
        self._submitted = 0
        self._buffers: list[SlotBuffers] = []
        self._views: list[dict[str, Array]] = []
        self._free: deque[int] = deque()
        self._flying: dict[Ticket, int] = {}
        self._carried: dict[str, str] = {}
        self._last: int | None = None  # slot of the inference submitted last
        self._started_ns: list[int] = []
        self._ended_ns: list[int] = []  # 0: under way

    @property
    def is_open(self) -> bool:
        """Whether the engine is open, on whatever thread."""
        return self._owner is not None

    def open(self) -> None:
        """Load the network, take all memory, and run every slot once on zeros.

        The trial run makes the device allocate what it allocates lazily, so that a lack of
        memory is found here and the first frame is as fast as the others. The calling thread
        becomes the owner.

        Raises:
            OutOfMemoryError: not enough memory for this size.
            EngineError: the engine is already open, or the network cannot run on this device.
        """
        if self._owner is not None:
            raise EngineError(f"cannot open the {self.name} engine: it is already open")
        self._owner = threading.current_thread()
        try:
            self._prepare()
        except BaseException as error:  # an interrupt must not leave a half-open engine either
            self._release()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            kind = OutOfMemoryError if is_out_of_memory(error) else EngineError
            raise kind(
                f"the {self.name} engine cannot open {self._subject()}: {vendor_reason(error)}; "
                "try another engine, or a smaller picture if memory ran out"
            ) from None

    def submit(self, feeds: Mapping[str, Array]) -> Ticket:
        """Start one inference and return at once.

        Args:
            feeds: one array for each of `inputs`, of exactly that shape and dtype, with any
                strides. uint16 is also taken where float32 is asked for, so that deep pixels
                are converted by the copy itself. The arrays are copied, and may be reused as
                soon as this returns.

        Raises:
            InferenceError: the device or its library refused.
            EngineError: closed, wrong thread, no free slot, or feeds that don't fit.
        """
        self._check_usable("submit to")
        self._check_feeds(feeds)
        if not self._free:
            raise EngineError(
                f"cannot submit to the {self.name} engine: all {self.slots} slots are in flight; collect a ticket first"
            )
        slot = self._free.popleft()
        for spec in self.inputs:
            np.copyto(self._buffers[slot].inputs[spec.name], feeds[spec.name])
        self._started_ns[slot], self._ended_ns[slot] = time.monotonic_ns(), 0
        try:
            self._carry_to(slot)
            self._submit(slot)
        except Exception as error:
            self._free.append(slot)
            raise self._failure(error) from error
        self._last = slot
        ticket = Ticket(self._submitted)
        self._submitted += 1
        self._flying[ticket] = slot
        return ticket

    def ready(self, ticket: Ticket) -> bool:
        """Whether `collect` would return at once. An engine that doesn't tell says no until then.

        Raises:
            EngineError: as `collect`, as far as that shows beforehand.
        """
        return self._ended_ns[self._slot_of(ticket)] > 0

    def collect(self, ticket: Ticket) -> dict[str, Array]:
        """Wait for one inference and return its outputs.

        Returns:
            One read-only array for each of `outputs`. They are views into the slot: valid
            until the next `submit` or `close`. Copy them to keep them.

        Raises:
            InferenceError: the inference failed. The slot is free again.
            EngineError: closed, wrong thread, or a ticket that is not in flight here.
        """
        slot = self._slot_of(ticket)
        try:
            self._wait_for(slot)
        except Exception as error:
            self._finish(ticket)
            raise self._failure(error) from error
        self._finish(ticket)  # not after an interrupted wait: the slot is still busy then
        self.latency_ns = (self._ended_ns[slot] or time.monotonic_ns()) - self._started_ns[slot]
        return dict(self._views[slot])

    def adopt(self) -> None:
        """Make the calling thread the owner of an engine that another one opened and has done with.

        Raises:
            EngineError: closed, or its device binds it to its thread (see `can_move`).
        """
        if self._owner is None or not self.can_move:
            reason = "it stays on the thread that opened it" if self._owner else "open it first"
            raise EngineError(f"cannot adopt the {self.name} engine: {reason}")
        self._owner = threading.current_thread()

    def close(self) -> None:
        """Wait for what is in flight, discard it, and release the device.

        A closed or never opened engine is left alone. A closed engine may be opened again.

        Raises:
            EngineError: another thread opened the engine.
        """
        if self._owner is None:
            return
        self._check_thread("close")
        self._release()

    def __enter__(self) -> Self:
        if self._owner is None:
            self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _open(self) -> list[SlotBuffers]:
        """Load the network; return the memory of each slot, from which the specs are read."""

    @abstractmethod
    def _submit(self, slot: int) -> None:
        """Start an inference on the inputs that are already in the slot's memory."""

    @abstractmethod
    def _collect(self, slot: int) -> None:
        """Wait until the slot's outputs are in its memory; raise if its inference failed."""

    @abstractmethod
    def _close(self) -> None:
        """Release everything; nothing is in flight. Must also do after a failed `_open`."""

    def _subject(self) -> str:
        """What was opened, for messages."""
        return "its network"

    def _prepare(self) -> None:
        self._buffers = self._open()
        self.slots = len(self._buffers)
        inputs, outputs = _specs(self._buffers[0].inputs), _specs(self._buffers[0].outputs)
        self._carried = carried_between(inputs, outputs)
        written = set(self._carried.values())
        self.state = self.state or tuple(spec for spec in inputs if spec.name in self._carried)
        self.inputs = tuple(spec for spec in inputs if spec.name not in self._carried)
        self.outputs = tuple(spec for spec in outputs if spec.name not in written)
        self._views = [_read_only(buffers.outputs, self.outputs) for buffers in self._buffers]
        self._started_ns, self._ended_ns = [0] * self.slots, [0] * self.slots
        for slot in range(self.slots):
            self._submit(slot)
            self._collect(slot)
        self._free = deque(range(self.slots))

    def _carry_to(self, slot: int) -> None:
        """Brings the state to this slot, for back ends whose whole state is in their slots' memory on the host."""
        if not self._carried or self._last is None:
            return
        before, now = self._buffers[self._last].outputs, self._buffers[slot].inputs
        self._wait_for(self._last)
        for name, written in self._carried.items():
            np.copyto(now[name], before[written])

    def _wait_for(self, slot: int) -> None:
        """`_collect`; nobody goes on from the state of an inference that failed."""
        try:
            self._collect(slot)
        except Exception:  # of whatever type a back end raises; it goes on from here
            if slot == self._last:
                self._last = None
            raise

    def _slot_of(self, ticket: Ticket) -> int:
        self._check_usable("collect from")
        slot = self._flying.get(ticket)
        if slot is None:
            raise EngineError(
                f"cannot collect ticket {ticket.number} from the {self.name} engine: it was "
                "collected before, or is not from this opening of this engine"
            )
        return slot

    def _tell(self, slot: int) -> None:
        """For back ends that know: an inference has ended, well or badly. Any thread."""
        self._ended_ns[slot] = time.monotonic_ns()
        if self.on_done is not None:
            self.on_done()

    def _finish(self, ticket: Ticket) -> None:
        self._free.append(self._flying.pop(ticket))

    def _release(self) -> None:
        for slot in self._flying.values():
            with contextlib.suppress(Exception):  # nobody will ask for this result
                self._collect(slot)
        self._flying.clear()
        self._free.clear()
        try:
            self._close()
        finally:
            self._buffers, self._views = [], []
            self._started_ns, self._ended_ns, self.latency_ns = [], [], 0
            self.inputs, self.outputs, self.state = (), (), ()
            self._carried, self._last = {}, None
            self._owner = None

    def _failure(self, error: Exception) -> InferenceError:
        traceback.clear_frames(error.__traceback__)  # what they hold may belong to a device that is given up now
        return InferenceError(
            f"the {self.name} engine failed while running {self._subject()}: "
            f"{vendor_reason(error)}; the next frame may be tried, or another engine"
        )

    def _check_usable(self, action: str) -> None:
        if self._owner is None:
            raise EngineError(f"cannot {action} the {self.name} engine: open it first")
        self._check_thread(action)

    def _check_thread(self, action: str) -> None:
        here = threading.current_thread()
        if self._owner is not here:
            owner = self._owner.name if self._owner else "no thread"
            raise EngineError(
                f"cannot {action} the {self.name} engine from thread {here.name}: it was opened "
                f"by {owner}; open, use and close an engine on one thread"
            )

    def _check_feeds(self, feeds: Mapping[str, Array]) -> None:
        wanted = {spec.name for spec in self.inputs}
        if feeds.keys() != wanted:
            raise EngineError(
                f"cannot submit to the {self.name} engine: got inputs {sorted(feeds)}, "
                f"but the network takes {sorted(wanted)}"
            )
        for spec in self.inputs:
            feed = feeds[spec.name]
            if feed.shape != spec.shape or not _fits(feed.dtype, spec.dtype):
                raise EngineError(
                    f"cannot submit to the {self.name} engine: {spec.name} is "
                    f"{feed.dtype}{list(feed.shape)}, but was opened as "
                    f"{spec.dtype}{list(spec.shape)}; pass that shape and dtype"
                )


def vendor_reason(error: BaseException) -> str:
    """A vendor library's error as one short line, without its source files and checks."""
    said = " ".join(_VENDOR_NOISE.sub("", str(error)).split())
    reason = said.rstrip(".;: ") or type(error).__name__
    return textwrap.shorten(reason, _REASON_LENGTH, placeholder=" ...")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a vendor library's error says so, by its type or its words; they have no common type."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _fits(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return dtype == wanted or (dtype == np.uint16 and wanted == np.float32)


def _specs(arrays: dict[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items())


def carried(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Which inputs are a state, and which output is to be the next one; by their names."""
    written = set(outputs)
    return {name: f"{name}{_NEXT}" for name in inputs if f"{name}{_NEXT}" in written}


def carried_between(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> dict[str, str]:
    """The same of tensors. Raises EngineError if what is written is not like what is read."""
    read, written = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    found = carried(read, written)
    for name, following in found.items():
        if (read[name].shape, read[name].dtype) != (written[following].shape, written[following].dtype):
            raise EngineError(f"cannot carry a state from {written[following]} to {read[name]}: make both alike")
    return found


def _read_only(arrays: dict[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    views = {spec.name: arrays[spec.name].view() for spec in specs}
    for view in views.values():
        view.flags.writeable = False
    return views
