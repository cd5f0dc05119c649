"""The CPU: what its engines have in common, how many of its processors may be used, and what it is called."""

from __future__ import annotations

import math
import os
import platform
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from .base import Engine, EngineError
from .model import model_name

_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class CpuEngine(Engine):
    """An engine that runs an ONNX model on some threads of the CPU, in the precision that its graph says."""

    tells = True
    can_move = True

    def __init__(
        self,
        model: Path | bytes,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        slots: int | None = None,
        threads: int | None = None,
        title: str | None = None,
    ) -> None:
        """Store the settings.

        Args:
            model: an ONNX file or its content.
            shapes: for each input with a dynamic dimension, its whole shape.
            slots: inferences in flight; by default 2.
            threads: CPU threads of all inferences together; by default `usable_cpus`.
            title: what messages call the model; by default its file name.
        """
        super().__init__(2 if slots is None else slots)
        self._model = model
        self._title = title or model_name(model)
        self._shapes = dict(shapes)
        self._threads = usable_cpus(threads)
        self._reset()

    @abstractmethod
    def _reset(self) -> None:
        """Forget everything that `_open` made; nothing of it is in use."""

    def _subject(self) -> str:
        return self._title


def usable_cpus(threads: int | None = None) -> int:
    """`threads` if given, else how many CPUs this process may run on, or its container's share of their time if less.

    More threads than that share would be stopped together, for a part of each tenth of a second.

    Raises:
        EngineError: fewer than one thread was asked for.
    """
    if threads is not None:
        if threads < 1:
            raise EngineError(f"cannot run a network on {threads} threads: use 1 or more")
        return threads
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _share())))


def _share() -> float:
    """CPUs' worth of time that this process's control groups leave it; infinity without a limit.

    See the Linux kernel's documentation of cgroup v2 (cpu.max) and of CFS bandwidth control (v1).
    """
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and (not controllers or "cpu" in controllers.split(",")):
            root = _GROUPS / "cpu" if controllers else _GROUPS
            group = root / path.lstrip("/")
            found += [_limit(place) for place in (group, *group.parents) if place.is_relative_to(root)]
    return min(found)


def _limit(group: Path) -> float:
    """Of one group by itself."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
        except (OSError, ValueError):  # not this version; "max" in place of a number
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def cpu_name() -> str:
    """The processor's name and the number of usable CPUs, such as "AMD EPYC, 2 CPUs"."""
    count = usable_cpus()
    return f"{_model_name()}, {count} CPU{'s' if count > 1 else ''}"


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
