"""The TensorRT engine: the main one, on an NVIDIA GPU.

Verified on a simulated GPU only (tests/gpu): nothing in this package has ever run on a real one.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..base import Engine, EngineError, OutOfMemoryError, SlotBuffers, TensorSpec, carried_between, vendor_reason
from ..cpu import usable_cpus
from ..model import FixedModel, model_name, onnx_library, read_model, with_shapes
from .build import BuildError, BuildSettings
from .cuda import Gpu, gpu_device
from .graph import NotCapturableError
from .load import LoadedPlan, PlanSource
from .profile import Profile
from .slot import InferenceRefusedError, Lanes, Slot, Specs, size_of
from .state import DeviceState, StatefulSlot
from .vendor import TENSORRT, TENSORRT_RTX, Backend, load_vendor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .build import Progress
    from .cache import PlanCache

log = logging.getLogger(__name__)

SLOTS = 3
"""One uploads, one computes, one downloads."""


class TensorRTEngine(Engine):
    """Runs a network on an NVIDIA GPU with TensorRT, in the precision that its graph says.

    Several inferences are in flight, one in each slot; copies in, inferences and copies out of different slots overlap.
    Nothing is allocated for a frame, and the host waits only in `collect`, for that frame's outputs. The GPU's context
    is current only inside of these calls, so the thread may use other GPUs and other libraries in between.

    A network's state stays on the device; see `engines.tensorrt.state`.

    After an error that the driver calls sticky, such as an illegal address, this process can't use that GPU any more.
    """

    name = "tensorrt"
    on_gpu = True
    keeps_state = True
    backend: ClassVar[Backend] = TENSORRT
    slot_type: ClassVar[type[Slot]] = Slot
    stateful_slot_type: ClassVar[type[StatefulSlot]] = StatefulSlot

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
        profile: Profile | None = None,
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
            profile: the range of shapes to build for, `shapes` among them; then no other plan will do. By default any
                plan that serves `shapes` is used, and one for them alone is built.
            cache: of plans; by default every opening builds its own.
            graphs: launch a slot's work as a CUDA graph where that is possible.
            progress: hears how far a build is.

        Raises:
            EngineError: a setting out of range; `shapes` outside of `profile`.
        """
        super().__init__(SLOTS if slots is None else slots)
        usable_cpus(threads)
        self._model, self._shapes = model, dict(shapes)
        self._title = title or model_name(model)
        self._device, self._graphs = device, graphs
        if profile is not None and not profile.serves(self._shapes):
            raise EngineError(
                f"cannot run {self._title}: it is outside of what the plan is to be built for, {profile}; "
                "use a size in between, or a wider range"
            )
        wanted = profile or Profile.fixed(self._shapes)
        exact = profile is not None
        self._source = PlanSource(self.backend, settings or BuildSettings(), wanted, exact, cache, progress)
        self._wanted_slots = self.slots
        self._reset()

    def _reset(self) -> None:
        self._gpu: Gpu | None = None
        self._plan: LoadedPlan | None = None
        self._lanes: Lanes | None = None
        self._slots: list[Slot] = []
        self._memory: DeviceState | None = None

    @property
    def state_nbytes(self) -> int:
        """Of the device's memory, for both halves of a network's state; 0 without one, and while closed."""
        return 0 if self._memory is None else self._memory.nbytes

    def has_plan(self) -> bool:
        """Whether `open` would find its plan in the cache and build nothing. Takes no memory of the GPU.

        Raises:
            EngineError: the library is missing, or there is no such GPU.
        """
        with_shapes(self._model, self._shapes)
        load_vendor(self.backend)
        return self._source.has(read_model(self._model), self._title, gpu_device(self._device))

    def _open(self) -> list[SlotBuffers]:
        fixed = with_shapes(self._model, self._shapes)
        load_vendor(self.backend)  # a missing package is told before a missing GPU
        self._gpu = Gpu(self._device)
        with self._gpu.current():
            self._check_memory(self._gpu, fixed)
            self._plan = self._source.load(read_model(self._model), self._title, self._gpu.device)
            inputs, outputs = self._without_state(self._gpu, *_specs(self._plan, fixed))
            self._lanes = Lanes.make(self._gpu)
            self._make_slots(self._plan, inputs, outputs)
            self._capture()
            self._plan.keep_compiled()
        return [slot.buffers for slot in self._slots]

    def _prepare(self) -> None:
        super()._prepare()
        if self._memory is not None:  # of the trial runs
            assert self._gpu is not None
            assert self._lanes is not None
            with self._gpu.current():
                self._memory.clear(self._lanes.compute)
                self._lanes.compute.synchronize()

    def _submit(self, slot: int) -> None:
        assert self._gpu is not None
        assert self._plan is not None
        with self._gpu.current():
            try:
                self._slots[slot].submit()
            except InferenceRefusedError as error:
                raise RuntimeError(f"{error}: {self._plan.journal.reason()}") from None

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
                    if self._memory is not None:
                        steps.callback(self._memory.release)
                    for slot in self._slots:
                        steps.callback(slot.release)
                    if self._plan is not None:
                        steps.callback(self._plan.release)
                    for slot in self._slots:
                        steps.callback(slot.release_context)
        except Exception as error:  # after a sticky error nothing can be freed any more
            log.warning("GPU %d: not everything was released: %s", self._device, vendor_reason(error))
        self.slots = self._wanted_slots

    def _forget(self) -> None:
        self._slots, self._lanes, self._memory = [], None, None

    def _subject(self) -> str:
        return self._title

    def _check_memory(self, gpu: Gpu, fixed: FixedModel) -> None:
        """Before a build that may take minutes: is there room for one picture and what becomes of it, at least?"""
        needed = sum(size_of(spec) for spec in _inferred(fixed.content).values())
        if needed > gpu.free_bytes():
            raise self._out_of_memory(f"it takes {needed >> 20} MiB and more; {gpu.free_bytes() >> 20} MiB are free")

    def _out_of_memory(self, why: str) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"the {self.name} engine cannot open {self._title}: GPU {self._device} has not enough memory for "
            f"one picture in flight ({why}); close other programs that use it, or use a smaller picture"
        )

    def _without_state(self, gpu: Gpu, inputs: Specs, outputs: Specs) -> tuple[Specs, Specs]:
        """What goes up and comes down; memory for what stays."""
        carried = carried_between(inputs, outputs)
        written = set(carried.values())
        self.state = tuple(spec for spec in inputs if spec.name in carried)
        if self.state:
            self._memory = DeviceState(gpu, self.state, carried)
            log.info("%s keeps a state of %d KiB on the GPU", self._title, self._memory.nbytes >> 10)
        return (
            tuple(spec for spec in inputs if spec.name not in carried),
            tuple(spec for spec in outputs if spec.name not in written),
        )

    def _make_slots(self, plan: LoadedPlan, inputs: Specs, outputs: Specs) -> None:
        for number in range(self.slots):
            problem = self._make_slot(plan, inputs, outputs)
            if problem is not None and (number == 0 or not isinstance(problem, OutOfMemoryError)):
                raise problem
            if problem is not None:
                log.warning(
                    "GPU %d has memory for %d of %d slots, so frames overlap less: %s",
                    self._device,
                    number,
                    self.slots,
                    problem,
                )
                break

    def _make_slot(self, plan: LoadedPlan, inputs: Specs, outputs: Specs) -> Exception | None:
        """Make one and run it once, as TensorRT allocates some memory only then.

        Returns why there is none, if so: an error that, unlike one that was raised, holds on to nothing of the slot's,
        which must be gone before the GPU's context is.
        """
        assert self._gpu is not None
        assert self._lanes is not None
        made = len(self._slots)
        try:
            parts = self._gpu, plan.new_context(), self._lanes, inputs, outputs
            if self._memory is None:
                self._slots.append(self.slot_type(*parts))
            else:
                self._slots.append(self.stateful_slot_type(*parts, self._memory))
            self._slots[made].submit()
            self._slots[made].wait()
        except EngineError as error:
            return EngineError(str(error))
        except (MemoryError, self._gpu.pycuda.MemoryError, InferenceRefusedError) as error:
            if made == 0 and isinstance(error, InferenceRefusedError):
                return RuntimeError(f"{error}: {plan.journal.reason()}")
            for slot in self._slots[made:]:
                slot.release()
            del self._slots[made:]
            free = f"{_short(error)}; {self._gpu.free_bytes() >> 20} MiB are free"
            return OutOfMemoryError(free) if made else self._out_of_memory(free)
        return None

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


def _specs(plan: LoadedPlan, fixed: FixedModel) -> tuple[Specs, Specs]:
    """Of inputs and outputs in the model's order, after a check that the plan has exactly these."""
    engine = plan.engine
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if names != {*fixed.inputs, *fixed.outputs}:
        raise BuildError(f"the plan has the tensors {sorted(names)}, not those of the model")

    wanted = _inferred(fixed.content)

    def spec(name: str) -> TensorSpec:
        shape = tuple(engine.get_tensor_shape(name))
        if min(shape, default=1) < 0:  # of a range, where the context of each slot is told the shapes
            shape = wanted[name].shape
        dtype = np.dtype(plan.vendor.nptype(engine.get_tensor_dtype(name)))
        if min(shape, default=1) < 1:
            raise BuildError(f"the shape of {name} is {list(shape)}: every size must follow from the inputs")
        if dtype != wanted[name].dtype:
            raise BuildError(f"{name} is {dtype} in the plan and {wanted[name].dtype} in the model")
        return TensorSpec(name, shape, dtype)

    return tuple(map(spec, fixed.inputs)), tuple(map(spec, fixed.outputs))


def _inferred(model: bytes) -> dict[str, TensorSpec]:
    """Of inputs and outputs; dimensions that can't be inferred are 0."""
    onnx = onnx_library()
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    found = {}
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        found[value.name] = TensorSpec(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return found


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
