"""The ONNX Runtime engine on an NVIDIA GPU, for where TensorRT is missing, or still builds its plan.

Nobody has run it on a GPU: its tests put ONNX Runtime's CPU provider in the place of CUDA's, and imitate what is known
of how CUDA's fails.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from .base import EngineError
from .onnxruntime import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

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
        _preload(vendor)
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


def _preload(vendor: Any) -> None:
    """Loads CUDA's libraries from where pip put them, which ONNX Runtime can since 1.21; the session's check decides.

    It prints what it doesn't find. Standard output may be the job's own, and can be redirected for the whole process
    only, so the function is called with another `print`.
    """
    preload = getattr(vendor, "preload_dlls", None)
    if isinstance(preload, FunctionType):
        names = preload.__globals__ | {"print": _note}
        quiet = FunctionType(preload.__code__, names, preload.__name__, preload.__defaults__, preload.__closure__)
        quiet.__kwdefaults__ = preload.__kwdefaults__
        preload = quiet
    if preload is not None:
        preload()


def _note(*words: object, **_: object) -> None:
    log.debug("ONNX Runtime: %s", " ".join(map(str, words)))
