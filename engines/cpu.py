"""The CPU: what its engines have in common, how many of its processors may be used, and what it is called."""

from __future__ import annotations

import os
import platform
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from .base import Engine, EngineError
from .model import model_name


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
            threads: CPU threads of all inferences together; by default one for each CPU this
                process may use.
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
