"""A loaded plan: from the cache or just built, with the library's objects that live as long as it does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base import OutOfMemoryError, is_out_of_memory
from ..model import with_shapes
from .build import BuildError, BuildSettings, build_plan
from .key import PlanKey, plan_key
from .profile import Profile
from .vendor import Backend, Journal, load_vendor, started

if TYPE_CHECKING:
    from .build import Progress
    from .cache import PlanCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanSource:
    """How to come by a plan."""

    backend: Backend
    settings: BuildSettings
    profile: Profile
    """What to build for."""
    exact: bool
    """Whether only a plan of just these settings and this profile will do; else any that serves it."""
    cache: PlanCache | None
    """None: every opening builds its own."""
    progress: Progress | None

    def load(self, model: bytes, title: str, device: Any) -> LoadedPlan:
        """The plan of a model for this device, ready to run, in the current context.

        Args:
            model: an ONNX file's content.
            title: what messages call it.
            device: of pycuda.

        Raises:
            OutOfMemoryError: it is too large for the GPU.
            EngineError: the library is missing.
            NotStartedError: the library gives null, for example because the driver is too old.
            BuildError: it can't be built, or what was built doesn't load.
            BaseException: whatever `progress` raised.
        """
        return LoadedPlan(self, model, title, device)

    def has(self, model: bytes, title: str, device: Any) -> bool:
        """Whether the cache has a plan of this model for this device. Raises EngineError without the library."""
        keys = self.keys(load_vendor(self.backend), model, device)
        return self.cache is not None and any(self.cache.peek(key, title) is not None for key in keys)

    def keys(self, vendor: Any, model: bytes, device: Any) -> list[PlanKey]:
        """Of the plans that will do: first the one that would be built, then what the cache has besides."""
        key = plan_key(vendor, self.backend, device, model, self.profile, self.settings)
        others = key.substitutes(self.cache.keys()) if self.cache is not None and not self.exact else []
        return [key, *others]


class LoadedPlan:
    """TensorRT's engine for one model, and what makes execution contexts for it. One thread makes, uses and ends it."""

    def __init__(self, source: PlanSource, model: bytes, title: str, device: Any) -> None:
        self._source, self._title = source, title
        self.journal = Journal()
        self.vendor = load_vendor(source.backend)
        self._logger = self.journal.logger(self.vendor)
        self._runtime: Any = started(self.journal, lambda: self.vendor.Runtime(self._logger))
        keys = source.keys(self.vendor, model, device)
        self._key = keys[0]
        self.engine: Any = self._load(model, keys)
        """TensorRT's own object."""
        self._config, self._compiled = self._runtime_config()

    def new_context(self) -> Any:
        """An execution context, or None if there is no memory for it."""
        if self._config is None:
            return self.engine.create_execution_context()
        return self.engine.create_execution_context(self._config)

    def keep_compiled(self) -> None:
        """Keep what TensorRT for RTX compiled on this GPU, so that the next start is faster. After the first runs."""
        if self._compiled is not None and self._source.cache is not None:
            self._source.cache.store_side(f"runtime-{self._key.digest}", bytes(self._compiled.serialize()))

    def release(self) -> None:
        """After all execution contexts, before the device's context."""
        self._config = self._compiled = None
        self.engine = None
        self._runtime = None
        self._logger = None

    def _load(self, model: bytes, keys: list[PlanKey]) -> Any:
        cache = self._source.cache
        if cache is None:
            return self._deserialise(self._build(model, b"")[0])
        for key in keys:
            known = cache.peek(key, self._title)
            if known is None:
                continue
            try:
                found = self._deserialise(known)
            except BuildError as error:
                cache.discard(key, self._title, str(error))
                continue
            if key is not keys[0]:
                log.info("%s runs on the plan for %s", self._title, Profile.parse(key.parts["profile"]))
            self._key = key
            return found
        content = cache.fetch(keys[0], self._title, lambda: self._build_with_timing(cache, model))
        return self._deserialise(content)

    def _build(self, model: bytes, timing: bytes) -> tuple[bytes, bytes]:
        log.warning("building a plan of %s: this takes a while, once", self._title)
        source, profile = self._source, self._source.profile
        content = with_shapes(model, profile.best).content if profile.is_fixed else model
        return build_plan(
            self.vendor,
            self.journal,
            content,
            source.settings,
            profile=None if profile.is_fixed else profile,
            timing=timing,
            progress=source.progress,
        )

    def _build_with_timing(self, cache: PlanCache, model: bytes) -> bytes:
        name = f"timing-{self._key.machine_digest}"
        plan, timing = self._build(model, cache.load_side(name))
        cache.store_side(name, timing)
        return plan

    def _deserialise(self, plan: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            problem = BuildError(f"TensorRT does not load the plan: {self.journal.reason()}{self._validity(plan)}")
            if is_out_of_memory(problem):  # nothing is wrong with the plan
                raise OutOfMemoryError(f"the GPU has not enough memory for {self._title}: {problem}")
            raise problem
        return engine

    def _validity(self, plan: bytes) -> str:
        """What TensorRT for RTX finds wrong with a plan; the others don't say."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return ""
        validity, diagnostics = self._runtime.get_engine_validity(plan)
        return f" ({validity}, {diagnostics})"

    def _runtime_config(self) -> tuple[Any, Any]:
        """For TensorRT for RTX: how execution contexts compile, and what they compiled before.

        On a plan for a range it would run kernels for any size first, until those for this size are compiled beside
        them, and a CUDA graph would keep what it was captured with. So the first run waits for the faster ones. Nobody
        has seen this on a GPU; without one it can't be verified.
        """
        if not self._source.backend.compiles_on_device:
            return None, None
        config = self.engine.create_runtime_config()
        strategies = getattr(self.vendor, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:  # else an old version
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        compiled = config.create_runtime_cache()
        if self._source.cache is not None:
            known = self._source.cache.load_side(f"runtime-{self._key.digest}")
            if known and not compiled.deserialize(known):
                log.info("what was compiled for %s is of another version, and is compiled again", self._title)
        config.set_runtime_cache(compiled)
        return config, compiled
