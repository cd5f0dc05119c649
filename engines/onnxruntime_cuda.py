"""The ONNX Runtime engine on an NVIDIA GPU, for where TensorRT is missing, or still builds its plan.

Nobody has run it on a GPU: its tests put ONNX Runtime's CPU provider in the place of CUDA's, and imitate what is known
of how CUDA's fails.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, ClassVar

from .base import EngineError
from .onnxruntime import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROVIDER = "CUDAExecutionProvider"
FIX = "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]', without the package onnxruntime beside it"


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """Runs a network on an NVIDIA GPU with ONNX Runtime.

    Each slot is bound to host memory that is allocated once; ONNX Runtime copies from and to it, on the worker thread
    that runs the slot, so that copies and inferences of two slots overlap. That memory is not page-locked, which costs
    part of the overlap. Opening fails unless CUDA's provider is the session's first, whatever the list of available
    ones says; a single operator that it lacks still runs on the CPU.
    """

    name = "onnxruntime-cuda"
    on_gpu = True
    provider = PROVIDER
    fix: ClassVar[str] = FIX
    """What to install."""

    def __init__(
        self,
        model: Path | bytes,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        slots: int | None = None,
        threads: int | None = None,
        title: str | None = None,
        device: int = 0,
    ) -> None:
        """Store the settings, which are those of CPU engines, and `device`, the GPU's number."""
        super().__init__(model, shapes, slots=slots, threads=threads, title=title)
        self._device = device

    def _providers(self, vendor: Any) -> list[Any]:
        if self.provider not in vendor.get_available_providers():
            raise EngineError(
                f"the {self.name} engine needs a package with {self.provider}, and the installed onnxruntime has none; "
                f"run: {self.fix}"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it doesn't find; the session's check decides
            preload = getattr(vendor, "preload_dlls", None)  # finds CUDA where pip put it; since 1.21
            if preload is not None:
                preload()
        return self._asked()

    def _asked(self) -> list[Any]:
        return [(self.provider, self._provider_options())]

    def _provider_options(self) -> dict[str, str]:
        return self._cuda_options()

    def _cuda_options(self) -> dict[str, str]:
        # In TF32, which is CUDA's default, float32 is multiplied with the digits of float16.
        return {"device_id": str(self._device), "use_tf32": "0"}

    def _refusal(self, running: list[str]) -> str:
        return (
            f"the {self.name} engine asked for {self.provider} on GPU {self._device}, and ONNX Runtime fell back to "
            f"{', '.join(running)} without an error: a library of the version that it wants is missing, or there "
            f"is no such GPU; run: {self.fix}"
        )
