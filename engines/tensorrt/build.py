"""Building: an ONNX model becomes a plan, the form that one TensorRT version runs on one kind of GPU.

Every network is strongly typed: the precision is what the model's own types say, see `engines.tensorrt.fp16`. TensorRT
11 and TensorRT for RTX know nothing else, and TensorRT 10 is asked for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base import EngineError
from ..model import onnx_library
from .profile import Profile
from .vendor import Journal, started

VERSION = 2
"""Of what is asked of the library here beside `BuildSettings`. It is in the key of every plan."""

Progress = Callable[[str, int, int], None]
"""Called with a phase, the steps done in it and all its steps, on the builder's threads.

It cancels the build by raising, such as KeyboardInterrupt; `build_plan` then raises the same.
"""


class BuildError(Exception):
    """TensorRT won't build this model; the message names the operator or the reason."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What may be chosen about a build. None leaves it to the library."""

    level: int | None = None
    """Of optimisation, 0 (builds fast) to 5 (runs fast)."""
    workspace_bytes: int | None = None
    """Most memory that one layer may use."""
    aux_streams: int | None = None
    """How many streams of its own an inference may use."""
    capability: str | None = None
    """For another GPU than the current one, such as "8.6"; only TensorRT for RTX can."""


def build_plan(
    vendor: Any,
    journal: Journal,
    model: bytes,
    settings: BuildSettings,
    *,
    profile: Profile | None = None,
    timing: bytes = b"",
    progress: Progress | None = None,
) -> tuple[bytes, bytes]:
    """The plan of a model, and the timing cache that makes the next build faster (empty where there is none).

    Needs no GPU with TensorRT for RTX. TensorRT itself measures on the current GPU.

    Args:
        vendor: the module `tensorrt` or `tensorrt_rtx`.
        journal: hears what the library says.
        model: an ONNX file's content, with fixed shapes unless there is a `profile`.
        settings: of the build.
        profile: the range of shapes that the plan has to serve.
        timing: what an earlier build gave.
        progress: hears how far it is.

    Raises:
        NotStartedError: the library gives null.
        BuildError: an operator or type that TensorRT doesn't have, or float32 where the model says float16.
        BaseException: whatever `progress` raised.
    """
    logger = journal.logger(vendor)
    builder = started(journal, lambda: vendor.Builder(logger))
    network = builder.create_network(_network_flags(vendor))
    parser = vendor.OnnxParser(network, logger)
    if not parser.parse(model):
        raise BuildError(_parser_reason(parser, journal))
    _check_precision(vendor, network, model)
    config = builder.create_builder_config()
    _configure(vendor, config, settings)
    if profile is not None:
        _set_range(builder, config, profile)
    cache = _timing_cache(vendor, config, timing)
    monitor = _monitor(vendor, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise BuildError(f"the build failed: {journal.reason()}")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else b""


def _network_flags(vendor: Any) -> int:
    """TensorRT 10 asks for strong types; 11 has no other and may drop the flag."""
    strong = getattr(vendor.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strong is None else 1 << int(strong)


def _parser_reason(parser: Any, journal: Journal) -> str:
    said = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = error.node_operator()
        said.append(f"{error.desc()}{f' (at {node} {error.node_name()})' if node else ''}")
    return f"TensorRT cannot read it: {'; '.join(said) or journal.reason()}"


def _check_precision(vendor: Any, network: Any, model: bytes) -> None:
    """FP16 that silently becomes FP32 is twice as slow and looks the same, so it is counted."""
    wanted = _half_convolutions(model)
    layers = (network.get_layer(index) for index in range(network.num_layers))
    convolutions = [layer for layer in layers if layer.type == vendor.LayerType.CONVOLUTION]
    found = sum(layer.get_output(0).dtype == vendor.DataType.HALF for layer in convolutions)
    if found < wanted:
        raise BuildError(
            f"the model has {wanted} convolutions in float16, but TensorRT would run {found} so; "
            "this version of TensorRT does not honour the model's types: use precision f32, or another version"
        )


def _half_convolutions(model: bytes) -> int:
    onnx = onnx_library()
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    values = (*graph.value_info, *graph.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    return sum(node.op_type == "Conv" and node.output[0] in halves for node in graph.node)


def _set_range(builder: Any, config: Any, profile: Profile) -> None:
    given = builder.create_optimization_profile()
    for name in profile.best:
        given.set_shape(name, profile.smallest[name], profile.best[name], profile.largest[name])
    if config.add_optimization_profile(given) < 0:
        raise BuildError(f"TensorRT does not take the range {profile}")


def _configure(vendor: Any, config: Any, settings: BuildSettings) -> None:
    # In TF32, TensorRT's default, float32 is multiplied with the digits of float16: float32 is there to have more.
    if hasattr(vendor.BuilderFlag, "TF32"):
        config.clear_flag(vendor.BuilderFlag.TF32)
    # TensorRT for RTX only: else an inference may allocate, which can't be captured.
    if hasattr(vendor.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(vendor.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(vendor.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.aux_streams is not None:
        config.max_aux_streams = settings.aux_streams
    if settings.capability is not None:
        known = getattr(vendor, "ComputeCapability", None)
        target = getattr(known, f"SM{settings.capability.replace('.', '')}", None)
        if target is None:
            raise EngineError(
                f"cannot build for compute capability {settings.capability}: "
                f"{'this TensorRT does not know it' if known else 'only TensorRT for RTX builds for another GPU'}"
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(target, 0)


def _timing_cache(vendor: Any, config: Any, content: bytes) -> Any:
    """The measurements of earlier builds, if they fit. TensorRT for RTX measures nothing and has none."""
    if hasattr(vendor, "ComputeCapability"):
        return None
    for attempt in (content, b""):
        cache = config.create_timing_cache(attempt)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _monitor(vendor: Any, progress: Progress) -> Any:
    class Monitor(vendor.IProgressMonitor):  # type: ignore[misc]  # the base is known only here
        """Passes the outermost phases on; an exception there stops the build, as one must not pass through C++."""

        def __init__(self) -> None:
            vendor.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._outer: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._outer[phase_name] = num_steps
                self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.raised is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._outer.get(phase_name, 0))

        def _tell(self, phase: str, done: int) -> None:
            if phase not in self._outer or self.raised is not None:
                return
            try:
                progress(phase, done, self._outer[phase])
            except BaseException as error:
                self.raised = error

    return Monitor()
