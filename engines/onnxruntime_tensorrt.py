"""The ONNX Runtime engine with its TensorRT provider, for those who have that and no pycuda.

Nobody has run it on a GPU: its tests put ONNX Runtime's CPU provider in the place of TensorRT's. The project's own
TensorRT engine comes first, because it checks its plans and orders its copies itself; this one builds its plan while it
is opened, and nobody can tell beforehand whether it will have to.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from typing import Any

from .model import read_model
from .onnxruntime_cuda import PROVIDER as CUDA
from .onnxruntime_cuda import OnnxRuntimeCudaEngine
from .request import F16
from .tensorrt import TENSORRT, PlanCache

PROVIDER = "TensorrtExecutionProvider"
FIX = (
    "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]' and the TensorRT that it was made for (see its release notes: "
    "tensorrt-cu12 10.x), without the package onnxruntime beside it"
)
F16_BITS = 10
"""The deepest pixels whose code values float16 holds with digits to spare."""
_FOLDER = "onnxruntime"
_PREFIX_LENGTH = 32


def has_libraries() -> bool:
    """Whether TensorRT is installed as a Python package; stubs for type checkers, which have no file, don't count."""
    found = (importlib.util.find_spec(name) for name in ("tensorrt_libs", TENSORRT.module))
    return any(spec is not None and spec.origin is not None for spec in found)


class OnnxRuntimeTensorRTEngine(OnnxRuntimeCudaEngine):
    """Runs a network on an NVIDIA GPU with ONNX Runtime's TensorRT provider.

    What TensorRT can't compute runs on CUDA. In float16, TensorRT may choose it for more of a network than the model
    says, code values among it. So pixels may differ by a code from other engines' even at strength 0, and those of more
    than 10 bits are computed in float32. Its engines are kept in the product's cache of plans, and go with `streamer
    engines clear`. Opening fails unless TensorRT's provider is the session's first, whatever the list of available ones
    says.
    """

    name = "onnxruntime-tensorrt"
    provider = PROVIDER
    fix = FIX

    def _providers(self, vendor: Any) -> list[Any]:
        # Where pip put TensorRT's libraries, only its own module finds them; the session's check decides.
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module(TENSORRT.module)
        return super()._providers(vendor)

    def _asked(self) -> list[Any]:
        return [*super()._asked(), (CUDA, self._cuda_options())]

    def _provider_options(self) -> dict[str, str]:
        options = {"device_id": str(self._device), "trt_fp16_enable": str(int(self.precision == F16))}
        folder = PlanCache().subfolder(_FOLDER)
        if folder is not None:
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
            # Without it, a file is named by names in the graph, which models for other weights and sizes share.
            options["trt_engine_cache_prefix"] = self._digest()
            options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder)}
        return options

    def _digest(self) -> str:
        """Of what the session's content is made of."""
        shapes = repr(sorted(self._shapes.items())).encode()
        return hashlib.sha256(read_model(self._model) + shapes).hexdigest()[:_PREFIX_LENGTH]
