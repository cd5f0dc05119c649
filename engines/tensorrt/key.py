"""What a plan depends on. Two builds with the same key give plans that may stand for each other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..base import EngineError
from .build import VERSION as BUILD
from .fp16 import VERSION
from .profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .build import BuildSettings
    from .vendor import Backend

_LENGTH = 32
_GIB = 1 << 30


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
        """The same without model, shapes and settings: what measurements of layers depend on."""
        parts = {name: value for name, value in self.parts.items() if name not in ("model", "profile", "settings")}
        return PlanKey(parts).digest

    def substitutes(self, others: Iterable[PlanKey]) -> list[PlanKey]:
        """Those of `others` whose plans also do all that this one's must, the fastest first.

        They may serve a range of shapes, and have another optimisation level if none was asked for.
        """
        found = []
        for other in others:
            with contextlib.suppress(ValueError, KeyError, TypeError, EngineError):  # not a key of this program
                if self._is_served_by(other):
                    breadth = Profile.parse(other.parts["profile"]).breadth
                    found.append((breadth, -(_level(other) or 0), other))
        return [other for *_, other in sorted(found, key=lambda one: one[:2])]

    def _is_served_by(self, other: PlanKey) -> bool:
        names = self.parts.keys() | other.parts
        differing = {name for name in names if self.parts.get(name) != other.parts.get(name)}
        exact = _level(self) is not None  # else any will do: a level only says how much time the build took
        if not differing or not differing <= {"profile", "settings"}:
            return False
        if _settings(self, level=exact) != _settings(other, level=exact):
            return False
        wanted, offered = Profile.parse(self.parts["profile"]), Profile.parse(other.parts["profile"])
        return offered.serves(wanted.smallest) and offered.serves(wanted.largest)


def plan_key(
    vendor: Any, backend: Backend, device: Any, model: bytes, profile: Profile, settings: BuildSettings
) -> PlanKey:
    """The key of a plan for this machine.

    Types and precision are the model's own, so they are in its hash. The driver is not in the key: a new one runs the
    plans of older ones.

    Args:
        vendor: the library's module.
        backend: which of the two libraries.
        device: of pycuda.
        model: an ONNX file's content, before its shapes are fixed.
        profile: for which shapes.
        settings: of the build.
    """
    major, minor = device.compute_capability()
    return PlanKey(
        {
            "model": hashlib.sha256(model).hexdigest(),
            "profile": profile.text,
            "converter": str(VERSION),
            "build": str(BUILD),
            "backend": backend.name,
            "version": str(vendor.__version__),
            "package": _package(backend),
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": device.name(),
            "capability": f"{major}.{minor}",
            "multiprocessors": str(device.multiprocessor_count),
            "memory": f"{round(device.total_memory() / _GIB)} GiB",  # a part of one changes with the driver
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


def _settings(key: PlanKey, *, level: bool) -> dict[str, Any]:
    found: dict[str, Any] = dict(json.loads(key.parts["settings"]))
    return {name: value for name, value in found.items() if level or name != "level"}


def _level(key: PlanKey) -> int | None:
    """Of optimisation; None is the library's own choice."""
    found: int | None = _settings(key, level=True)["level"]
    return found
