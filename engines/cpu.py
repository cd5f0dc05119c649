"""The CPU: how many of its processors may be used, and what it is called."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .base import EngineError


def usable_cpus(threads: int | None = None) -> int:
    """`threads` if given, else how many CPUs this process may run on.

    Raises:
        EngineError: fewer than one thread was asked for.
    """
    if threads is not None:
        if threads < 1:
            raise EngineError(f"cannot run a network on {threads} threads: use 1 or more")
        return threads
    if sys_affinity := getattr(os, "sched_getaffinity", None):  # not on macOS and Windows
        return len(sys_affinity(0))
    return os.cpu_count() or 1


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
