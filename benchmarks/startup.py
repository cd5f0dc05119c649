"""`startup`: how long until the command line answers?"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import ROOT, facts
from benchmarks.report import Report, table


def run(repeat: int) -> Report:
    """Times every command `repeat` times, round-robin, each in a new process with warm file caches."""
    machine = facts()
    chosen = commands()
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for command in chosen.values():
        _time_ms(command)  # reads the files into the system's cache
    for _ in range(repeat):
        for name, command in chosen.items():
            times[name].append(_time_ms(command))
    findings: dict[str, Any] = {
        "settings": {"runs": repeat},
        "commands": {name: {"wall_ms": median(values), "rounds": values} for name, values in times.items()},
    }
    rows = [(name, f"{median(values):.0f}", f"{min(values):.0f}") for name, values in times.items()]
    text = table((f"wall ms of {repeat} runs", "median", "best"), rows)
    return Report.of(findings, text, machine)


def commands() -> dict[str, list[str]]:
    """What is timed; `streamer --help` only where the package is installed."""
    python = sys.executable
    found = {
        "python -c pass": [python, "-c", "pass"],
        'python -c "import streamer"': [python, "-c", "import streamer"],
        "python -m streamer --help": [python, "-m", "streamer", "--help"],
    }
    beside = str(Path(python).parent)
    if script := shutil.which("streamer", path=beside) or shutil.which("streamer"):
        found["streamer --help"] = [script, "--help"]
    return found


def _time_ms(command: list[str]) -> float:
    started = time.monotonic_ns()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic_ns() - started) / 1e6
