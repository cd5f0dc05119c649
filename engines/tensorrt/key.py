"""What a plan depends on. Two builds with the same key give plans that may stand for each other."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .fp16 import VERSION

if TYPE_CHECKING:
    from .build import BuildSettings
    from .vendor import Backend

_LENGTH = 32


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that a plan depends on, by name."""

    parts: dict[str, str]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, the plan's name in the cache."""
        text = json.dumps(self.parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]

    @property
    def machine_digest(self) -> str:
        """The same without model and settings: what measurements of layers depend on."""
        parts = {name: value for name, value in self.parts.items() if name not in ("model", "settings")}
        return PlanKey(parts).digest


def plan_key(vendor: Any, backend: Backend, device: Any, model: bytes, settings: BuildSettings) -> PlanKey:
    """The key of a plan for this machine.

    Shapes, types and precision are the model's own, so they are in its hash. The driver is not in the key: a new one
    runs the plans of older ones.

    Args:
        vendor: the library's module.
        backend: which of the two libraries.
        device: of pycuda.
        model: an ONNX file's content with fixed shapes.
        settings: of the build.
    """
    major, minor = device.compute_capability()
    return PlanKey(
        {
            "model": hashlib.sha256(model).hexdigest(),
            "converter": str(VERSION),
            "backend": backend.name,
            "version": str(vendor.__version__),
            "package": _package(backend),
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": device.name(),
            "capability": f"{major}.{minor}",
            "multiprocessors": str(device.multiprocessor_count),
            "memory": str(device.total_memory()),
            "settings": json.dumps(asdict(settings), sort_keys=True),
        }
    )


def _package(backend: Backend) -> str:
    """The installed packages' names, which say for which CUDA they are."""
    installed = []
    for name in backend.distributions:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(installed)
