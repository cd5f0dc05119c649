"""Runs ONNX networks on whatever this machine has.

Knows nothing of video: arrays in, arrays out. Importing it loads no inference library; an
engine loads its own when it is opened.
"""

from .background import PlanBuild
from .base import Array, Engine, EngineError, InferenceError, OutOfMemoryError, SlotBuffers, TensorSpec, Ticket
from .chroma import ChromaFilter
from .follower import PREFIX as FOLLOWER_PREFIX
from .foreign import VALUE_RANGES, Cost, ForeignNetwork, by_contract, cost_per_px, read_foreign
from .onnxruntime import OnnxRuntimeEngine
from .onnxruntime_cuda import OnnxRuntimeCudaEngine
from .onnxruntime_tensorrt import OnnxRuntimeTensorRTEngine
from .opening import open_engine
from .openvino import OpenVINOEngine
from .pixels import check_contract, for_bits, input_names, scale_of
from .plans import build_engine, plan_is_ready, ready_engine
from .request import PRECISIONS, EngineRequest
from .select import (
    EngineChoice,
    EngineOption,
    EngineRow,
    available_engines,
    choose_engine,
    engine_names,
    engine_options,
)
from .tensorrt import PlanCache, PlanEntry, TensorRTEngine, TensorRTRTXEngine, diagnose_gpu, explain

__all__ = [
    "FOLLOWER_PREFIX",
    "PRECISIONS",
    "VALUE_RANGES",
    "Array",
    "ChromaFilter",
    "Cost",
    "Engine",
    "EngineChoice",
    "EngineError",
    "EngineOption",
    "EngineRequest",
    "EngineRow",
    "ForeignNetwork",
    "InferenceError",
    "OnnxRuntimeCudaEngine",
    "OnnxRuntimeEngine",
    "OnnxRuntimeTensorRTEngine",
    "OpenVINOEngine",
    "OutOfMemoryError",
    "PlanBuild",
    "PlanCache",
    "PlanEntry",
    "SlotBuffers",
    "TensorRTEngine",
    "TensorRTRTXEngine",
    "TensorSpec",
    "Ticket",
    "available_engines",
    "build_engine",
    "by_contract",
    "check_contract",
    "choose_engine",
    "cost_per_px",
    "diagnose_gpu",
    "engine_names",
    "engine_options",
    "explain",
    "for_bits",
    "input_names",
    "open_engine",
    "plan_is_ready",
    "read_foreign",
    "ready_engine",
    "scale_of",
]
