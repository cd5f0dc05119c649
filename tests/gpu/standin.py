"""A stand-in for TensorRT's Python module: what the engine uses of it, on the simulated GPU.

A plan holds the ONNX model itself. `execute_async_v3` enqueues a kernel that copies the inputs out of device memory,
runs the model with ONNX Runtime, and copies the outputs back when the stream comes to it.
Names and parameters are those of the real bindings, held by `tests/gpu/test_drift.py`.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

__version__ = "11.4.0"

MAGIC = b"stand-in plan\0"
SCRATCH_BYTES = 1 << 20
device: list[SimulatedGpu] = []
"""The simulated GPU, set by the fixture that puts this module in TensorRT's place."""
ort.set_default_logger_severity(4)


class DataType(enum.Enum):
    FLOAT = onnx.TensorProto.FLOAT
    HALF = onnx.TensorProto.FLOAT16
    INT64 = onnx.TensorProto.INT64
    UINT8 = onnx.TensorProto.UINT8


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class LayerType(enum.Enum):
    CONVOLUTION = "Conv"
    OTHER = ""


class BuilderFlag(enum.Enum):
    TF32 = 0
    REQUIRE_USER_ALLOCATION = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


def nptype(trt_type: DataType) -> type[np.generic]:
    found: type[np.generic] = onnx.helper.tensor_dtype_to_np_dtype(trt_type.value).type
    return found


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor:
    def __init__(self, dtype: DataType) -> None:
        self.dtype = dtype


class ILayer:
    def __init__(self, node: onnx.NodeProto, dtype: DataType) -> None:
        self.type = LayerType.CONVOLUTION if node.op_type == "Conv" else LayerType.OTHER
        self._output = ITensor(dtype)

    def get_output(self, index: int) -> ITensor:
        return self._output


class INetworkDefinition:
    def __init__(self, strongly_typed: bool) -> None:
        self.strongly_typed = strongly_typed
        self.content = b""
        self.layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]


class ParserError:
    def __init__(self, operator: str, name: str) -> None:
        self._operator, self._name = operator, name

    def desc(self) -> str:
        return f"No importer registered for op: {self._operator}"

    def node_operator(self) -> str:
        return self._operator

    def node_name(self) -> str:
        return self._name


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_model_from_string(bytes(model))
        self._errors = [ParserError(node.op_type, node.name) for node in proto.graph.node if node.domain]
        if self._errors:
            return False
        graph = onnx.shape_inference.infer_shapes(proto).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
        for node in graph.node:
            known = types.get(node.output[0], 0) in {dtype.value for dtype in DataType} and self._network.strongly_typed
            self._network.layers.append(ILayer(node, DataType(types[node.output[0]]) if known else DataType.FLOAT))
        self._network.content = bytes(model)
        return True


class IHostMemory(bytes):
    """The real one has the buffer interface too."""


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content + b".")


class IOptimizationProfile:
    def __init__(self) -> None:
        self.ranges: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.ranges[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    def __init__(self) -> None:
        self.ranges: dict[str, list[list[int]]] = {}
        self.cleared: list[BuilderFlag] = []
        self.given: list[BuilderFlag] = []
        self.builder_optimization_level = 3
        self.max_aux_streams = 0
        self.progress_monitor: IProgressMonitor | None = None
        self.timing: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        pass

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.ranges = profile.ranges
        return 0

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.cleared.append(flag)

    def set_flag(self, flag: BuilderFlag) -> None:
        self.given.append(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return None if serialized_timing_cache.startswith(b"!") else ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.timing = cache
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(bool(flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        monitor, steps = config.progress_monitor, max(network.num_layers, 1)
        if monitor:
            monitor.phase_start("Building", None, steps)
        for step in range(steps):
            if monitor and not monitor.step_complete("Building", step):
                self._logger.log(ILogger.ERROR, "the build was cancelled")
                return None
        if monitor:
            monitor.phase_finish("Building")
        missing = dynamic_inputs(network.content) - config.ranges.keys()
        if missing:
            self._logger.log(ILogger.ERROR, f"Network has dynamic inputs {missing}, but no optimization profile")
            return None
        about = {"version": __version__, "level": config.builder_optimization_level, "ranges": config.ranges}
        about["static"] = BuilderFlag.REQUIRE_USER_ALLOCATION in config.given
        head = json.dumps(about | {"tf32": BuilderFlag.TF32 not in config.cleared}).encode()
        return IHostMemory(MAGIC + head + b"\0" + network.content)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        content = bytes(serialized_engine)
        head, _, model = content.removeprefix(MAGIC).partition(b"\0")
        if not content.startswith(MAGIC) or json.loads(head)["version"] != __version__:
            self._logger.log(ILogger.ERROR, "Serialized engine is not of this version")
            return None
        about = json.loads(head)
        return ICudaEngine(model, about["ranges"], self._logger, static=about["static"])


class IRuntimeCache:
    def __init__(self) -> None:
        self.content = b""

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content + b".")

    def deserialize(self, blob: bytes) -> bool:
        self.content = bytes(blob)
        return not self.content.startswith(b"!")


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return True


class ICudaEngine:
    def __init__(self, model: bytes, ranges: dict[str, list[list[int]]], logger: ILogger, *, static: bool) -> None:
        self._logger, self._static = logger, static
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.model, self.ranges = model, ranges
        graph = onnx.load_model_from_string(model).graph
        values = {value.name: value for value in (*graph.input, *graph.output)}
        self._modes: dict[str, TensorIOMode] = {value.name: TensorIOMode.INPUT for value in self.session.get_inputs()}
        self._modes |= {value.name: TensorIOMode.OUTPUT for value in self.session.get_outputs()}
        self._dtypes = {name: DataType(values[name].type.tensor_type.elem_type) for name in self._modes}
        tensors = (*self.session.get_inputs(), *self.session.get_outputs())
        self._shapes = {value.name: tuple(-1 if isinstance(d, str) else d for d in value.shape) for value in tensors}

    @property
    def num_io_tensors(self) -> int:
        return len(self._modes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._modes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._modes[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._dtypes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        fixed = [list(self._shapes[name])] * 3
        return [tuple(shape) for shape in self.ranges.get(name, fixed)]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        scratch = device[-1].allocate(SCRATCH_BYTES)
        return None if scratch is None else IExecutionContext(self, scratch, self._suits_graphs(runtime_config))

    def _suits_graphs(self, config: IRuntimeConfig | None) -> bool:
        """Not with TensorRT for RTX if it may allocate on the way, or exchange what was captured for something faster.

        The real one captures that all the same, or tells when it runs.
        """
        kinds = DynamicShapesKernelSpecializationStrategy
        lazy = config is not None and config.dynamic_shapes_kernel_specialization_strategy == kinds.LAZY
        return config is None or (self._static and not (self.ranges and lazy))


class IExecutionContext:
    capturable = True
    """A test may set it to False, for a network whose inference can't be captured."""

    def __init__(self, engine: ICudaEngine, scratch: int, suits_graphs: bool) -> None:
        self.engine = engine
        self._suits_graphs = suits_graphs
        self._scratch = scratch
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._lazy: int | None = None

    def __del__(self) -> None:
        for pointer in (self._scratch, self._lazy):
            if pointer is not None:
                device[-1].free(pointer)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        return len(shape) == len(low) and all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes and -1 not in self.engine.get_tensor_shape(name):
            return self.engine.get_tensor_shape(name)
        if name not in self._shapes:
            self._shapes |= shapes_of(self.engine.model, self._shapes)
        return self._shapes[name]

    def size_of(self, name: str) -> int:
        itemsize = np.dtype(nptype(self.engine.get_tensor_dtype(name))).itemsize
        return int(math.prod(self.get_tensor_shape(name)) * itemsize)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return name in self.engine._modes and memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self.engine
        inputs = [value.name for value in engine.session.get_inputs()]
        outputs = [value.name for value in engine.session.get_outputs()]
        if self._lazy is None:  # what the first run allocates, and a capture must not
            self._lazy = device[-1].allocate(SCRATCH_BYTES)
            if self._lazy is None:
                engine._logger.log(ILogger.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
        if self._lazy is None or any(name not in self._shapes for name in inputs):
            return False
        if any(name not in self._addresses for name in (*inputs, *outputs)):
            return False
        if not (self.capturable and self._suits_graphs) and device[-1].capturing(stream_handle):
            return False

        memory = {name: (address, self.size_of(name)) for name, address in self._addresses.items()}
        kinds = {name: (self.get_tensor_shape(name), nptype(engine.get_tensor_dtype(name))) for name in memory}

        def view(name: str) -> Any:
            address, size = memory[name]
            return np.ndarray(*kinds[name], memoryview((ctypes.c_char * size).from_address(address)).cast("B"))

        def run() -> int:  # may be called after this context is gone, by a graph
            feeds = {name: view(name).copy() for name in inputs}
            for name, result in zip(outputs, engine.session.run(outputs, feeds), strict=True):
                view(name)[...] = result
            return 0

        scratch = [(self._scratch, SCRATCH_BYTES)]
        reads, writes = ([memory[name] for name in names] for names in (inputs, outputs))
        return device[-1].launch(stream_handle, "inference", reads, writes + scratch, run) == 0


def dynamic_inputs(model: bytes) -> set[str]:
    graph = onnx.load_model_from_string(model).graph
    return {value.name for value in graph.input if any(d.dim_param for d in value.type.tensor_type.shape.dim)}


def shapes_of(model: bytes, given: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of a model's outputs for its inputs' shapes."""
    proto = onnx.load_model_from_string(model)
    for value in proto.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, given.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    outputs = onnx.shape_inference.infer_shapes(proto).graph.output
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in outputs}
