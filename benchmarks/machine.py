"""Where a figure was measured, and what a piece of work cost there."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engines.cpu import cpu_name, usable_cpus

ROOT = Path(__file__).parents[1]

_PACKAGES = ("av", "numpy", "onnxruntime", "opencv-python-headless", "openvino")


def facts() -> dict[str, Any]:
    """Processor, system, versions, commit and the load before the measurement."""
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True, slots=True)
class Usage:
    """What this process has used up to now, or between two moments: all of its threads, not its children."""

    wall_ns: int
    cpu_ns: int
    """User and system time."""
    system_ns: int
    page_faults: int
    """Those without disk access: memory that the process touched for the first time."""
    switches: int
    """Context switches, voluntary or not."""
    others_ns: int
    """CPU time of everything else on the machine; 0 where the system doesn't tell."""

    @classmethod
    def now(cls) -> Usage:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_ns = round((used.ru_utime + used.ru_stime) * 1e9)
        return cls(
            wall_ns=time.monotonic_ns(),
            cpu_ns=cpu_ns,
            system_ns=round(used.ru_stime * 1e9),
            page_faults=used.ru_minflt,
            switches=used.ru_nvcsw + used.ru_nivcsw,
            others_ns=max(0, _busy_ns() - cpu_ns),
        )

    def since(self, earlier: Usage) -> Usage:
        return Usage(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


def _busy_ns() -> int:
    """CPU time spent on the whole machine since it started (proc_stat(5)); 0 where there is no such file."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields[:8])
    return round((user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") * 1e9)


def resident_mib(pid: int | str = "self") -> float:
    """Physical memory of a process now, in MiB (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("this system doesn't say how much memory a process uses")
