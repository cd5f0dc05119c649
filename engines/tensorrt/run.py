"""The TensorRT engine: the main one, on an NVIDIA GPU.

Verified on a simulated GPU only (tests/gpu): nothing in this package has ever run on a real one.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Engine, EngineError, SlotBuffers, TensorSpec, vendor_reason
from ..cpu import usable_cpus
from ..model import FixedModel, model_name, with_shapes
from .build import BuildError, BuildSettings, build_plan
from .cuda import Gpu
from .graph import NotCapturableError
from .key import plan_key
from .slot import InferenceRefusedError, Lanes, Slot
from .vendor import TENSORRT, TENSORRT_RTX, Backend, Journal, load_vendor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .build import Progress
    from .cache import PlanCache
    from .key import PlanKey

log = logging.getLogger(__name__)

SLOTS = 3
"""One uploads, one computes, one downloads."""


class TensorRTEngine(Engine):
    """Runs a network on an NVIDIA GPU with TensorRT, in the precision that its graph says.

    Several inferences are in flight, one in each slot; copies in, inferences and copies out of different slots overlap.
    Nothing is allocated for a frame, and the host waits only in `collect`, for that frame's outputs. The GPU's context
    is current only inside of these calls, so the thread may use other GPUs and other libraries in between.

    After an error that the driver calls sticky, such as an illegal address, this process can't use that GPU any more.
    """

    name = "tensorrt"
    backend: ClassVar[Backend] = TENSORRT
    slot_type: ClassVar[type[Slot]] = Slot

    def __init__(
        self,
        model: Path | bytes,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        slots: int | None = None,
        threads: int | None = None,
        title: str | None = None,
        device: int = 0,
        settings: BuildSettings | None = None,
        cache: PlanCache | None = None,
        graphs: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Store the settings.

        Args:
            model: an ONNX file or its content.
            shapes: for each input with a dynamic dimension, its whole shape.
            slots: inferences in flight; by default 3. Opening lowers it if the GPU has no memory for all.
            threads: checked as for other engines; this one needs the caller's thread only.
            title: what messages call the model; by default its file name.
            device: the GPU's number.
            settings: of the build.
            cache: of plans; by default every opening builds its own.
            graphs: launch a slot's work as a CUDA graph where that is possible.
            progress: hears how far a build is.
        """
        super().__init__(SLOTS if slots is None else slots)
        usable_cpus(threads)
        self._model, self._shapes = model, dict(shapes)
        self._title = title or model_name(model)
        self._device, self._graphs = device, graphs
        self._settings = settings or BuildSettings()
        self._cache = cache
        self._progress = progress
        self._wanted_slots = self.slots
        self._reset()

    def _reset(self) -> None:
        self._journal = Journal()
        self._gpu: Gpu | None = None
        self._vendor: Any = None
        self._logger: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._lanes: Lanes | None = None
        self._slots: list[Slot] = []

    def _open(self) -> list[SlotBuffers]:
        fixed = with_shapes(self._model, self._shapes)
        self._vendor = load_vendor(self.backend)
        self._gpu = Gpu(self._device)
        with self._gpu.current():
            self._engine = self._load(fixed)
            inputs, outputs = self._specs(fixed)
            self._lanes = Lanes.make(self._gpu)
            self._make_slots(inputs, outputs)
            self._capture()
        return [slot.buffers for slot in self._slots]

    def _submit(self, slot: int) -> None:
        assert self._gpu is not None
        with self._gpu.current():
            try:
                self._slots[slot].submit()
            except InferenceRefusedError as error:
                raise RuntimeError(f"{error}: {self._journal.reason()}") from None

    def _collect(self, slot: int) -> None:
        assert self._gpu is not None
        with self._gpu.current():
            self._slots[slot].wait()

    def _close(self) -> None:
        try:
            with contextlib.ExitStack() as steps:  # all of them, in reverse, even if one fails
                steps.callback(self._reset)
                if self._gpu is not None:
                    steps.callback(self._gpu.release)
                    steps.enter_context(self._gpu.current())
                    steps.callback(self._forget)
                    for slot in self._slots:
                        steps.callback(slot.release)
                    steps.callback(self._forget_engine)
                    for slot in self._slots:
                        steps.callback(slot.release_context)
        except Exception as error:  # after a sticky error nothing can be freed any more
            log.warning("GPU %d: not everything was released: %s", self._device, vendor_reason(error))
        self.slots = self._wanted_slots

    def _forget_engine(self) -> None:
        self._engine = self._runtime = self._logger = None

    def _forget(self) -> None:
        self._slots, self._lanes = [], None

    def _subject(self) -> str:
        return self._title

    def _load(self, fixed: FixedModel) -> Any:
        """The deserialised plan, from the cache if it has a good one."""
        assert self._gpu is not None
        self._logger = self._journal.logger(self._vendor)
        self._runtime = self._vendor.Runtime(self._logger)
        if self._cache is None:
            return self._deserialise(self._build(fixed.content, b"")[0])
        key = plan_key(self._vendor, self.backend, self._gpu.device, fixed.content, self._settings)
        for _ in range(2):
            plan = self._cache.fetch(key, self._title, lambda: self._build_with_timing(fixed.content, key))
            try:
                return self._deserialise(plan.content)
            except BuildError as error:
                if not plan.cached:
                    raise
                self._cache.discard(key, self._title, str(error))
        raise BuildError("the cache keeps giving a plan that does not load; run: streamer engines clear")

    def _build(self, content: bytes, timing: bytes) -> tuple[bytes, bytes]:
        log.info("building a plan of %s: this takes a while, once", self._title)
        return build_plan(self._vendor, self._journal, content, self._settings, timing=timing, progress=self._progress)

    def _build_with_timing(self, content: bytes, key: PlanKey) -> bytes:
        assert self._cache is not None
        name = f"timing-{key.machine_digest}"
        plan, timing = self._build(content, self._cache.load_side(name))
        self._cache.store_side(name, timing)
        return plan

    def _deserialise(self, plan: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT does not load the plan: {self._journal.reason()}")
        return engine

    def _specs(self, fixed: FixedModel) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Of inputs and outputs in the model's order, after a check that the plan has exactly these."""
        engine = self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != {*fixed.inputs, *fixed.outputs}:
            raise BuildError(f"the plan has the tensors {sorted(names)}, not those of the model")
        return tuple(map(self._spec, fixed.inputs)), tuple(map(self._spec, fixed.outputs))

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(self._engine.get_tensor_shape(name))
        dtype = np.dtype(self._vendor.nptype(self._engine.get_tensor_dtype(name)))
        if min(shape, default=1) < 0:
            raise BuildError(f"the shape of {name} is {list(shape)}: every size must follow from the inputs")
        return TensorSpec(name, shape, dtype)

    def _make_slots(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        for number in range(self.slots):
            problem = self._make_slot(inputs, outputs)
            if problem and number == 0:  # raised here, so that it holds on to nothing of the slot's
                raise EngineError(
                    f"the {self.name} engine cannot open {self._title}: GPU {self._device} has not enough memory for "
                    f"one picture in flight ({problem}); close other programs that use it, or use a smaller picture"
                )
            if problem:
                log.warning(
                    "GPU %d has memory for %d of %d slots, so frames overlap less: %s",
                    self._device,
                    number,
                    self.slots,
                    problem,
                )
                break

    def _make_slot(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> str:
        """Make one and run it once, as TensorRT allocates some memory only then; why it has too little, or nothing."""
        assert self._gpu is not None
        assert self._lanes is not None
        first = not self._slots
        try:
            slot = self.slot_type(self._gpu, self._engine, self._lanes, inputs, outputs)
            self._slots.append(slot)
            slot.submit()
            slot.wait()
        except (MemoryError, self._gpu.pycuda.MemoryError, InferenceRefusedError) as error:
            if first and isinstance(error, InferenceRefusedError):
                raise RuntimeError(f"{error}: {self._journal.reason()}") from None
            if len(self._slots) and not first and isinstance(error, InferenceRefusedError):
                self._slots.pop().release()
            return f"{_short(error)}; {self._gpu.free_bytes() >> 20} MiB are free"
        return ""

    def _capture(self) -> None:
        if not self._graphs:
            return
        try:
            for slot in self._slots:
                slot.capture()
        except NotCapturableError as error:
            log.info("%s runs without CUDA graphs: %s", self._title, str(error))


class TensorRTRTXEngine(TensorRTEngine):
    """The same with TensorRT for RTX, which builds in seconds and finishes on the user's GPU."""

    name = "tensorrt-rtx"
    backend = TENSORRT_RTX


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
