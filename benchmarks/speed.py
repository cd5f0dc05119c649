"""`speed`: does the whole cost more than its parts, and is it faster than the loop that people write without it?

Every case of every round runs in a process of its own, started afresh: thread pools, OpenCV's thread count, spinning
ONNX Runtime threads and the allocator's state of one case can't reach another. Imports and opening are outside the
measured window. Rounds interleave the cases, so that a slow minute of the machine falls on all of them; ratios are
taken within a round, and their median over rounds is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import CASES, CRF, MODEL, PRESET, Setup, measure
from benchmarks.clip import DESCRIPTION, make_clip
from benchmarks.machine import Usage, facts
from benchmarks.report import Report, table

FRAMES = 332
"""300 of them are measured."""

PARTS = ("decode", "network", "encode")

TARGETS = {"cpu over parts": ("<=", 1.10), "wall over ideal": ("<=", 1.15), "speed over plain loop": (">=", 1.3)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round, per frame. `others_cpus` is how many CPUs other processes kept busy meanwhile."""

    wall_ms: float
    cpu_ms: float
    system_ms: float
    page_faults: float
    switches: float
    others_cpus: float

    @classmethod
    def of(cls, usage: Usage, frames: int) -> Sample:
        return cls(
            wall_ms=usage.wall_ns / 1e6 / frames,
            cpu_ms=usage.cpu_ns / 1e6 / frames,
            system_ms=usage.system_ns / 1e6 / frames,
            page_faults=usage.page_faults / frames,
            switches=usage.switches / frames,
            others_cpus=max(0.0, usage.others_ns / usage.wall_ns),  # the system counts in steps of 10 ms
        )

    @property
    def fps(self) -> float:
        return 1000 / self.wall_ms


def run(frames: int, repeat: int) -> Report:
    """Measures all cases `repeat` times on a clip of `frames` frames."""
    machine = facts()
    with tempfile.TemporaryDirectory(prefix="streamer-speed-") as folder:
        setup = Setup(Path(folder) / "clip.mp4", frames, Path(folder))
        make_clip(setup.clip, frames)
        # With one task per process, the pool starts a fresh interpreter for every case.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            rounds = [
                {name: Sample.of(*pool.submit(measure, name, setup).result()) for name in CASES} for _ in range(repeat)
            ]
    findings = summarise(rounds, machine["cpus"])
    findings["settings"] = {
        "clip": DESCRIPTION,
        "model": MODEL,
        "encoder": f"x264 {PRESET} crf {CRF}, 1280x720",
        "frames": frames,
        "rounds": repeat,
    }
    return Report.of(findings, _text(findings), machine)


def summarise(rounds: list[dict[str, Sample]], cpus: int) -> dict[str, Any]:
    """Medians over the rounds for every case, and for the ratios of each round."""
    cases = {}
    for name in rounds[0]:
        samples = [asdict(one_round[name]) | {"fps": one_round[name].fps} for one_round in rounds]
        cases[name] = {key: median(sample[key] for sample in samples) for key in samples[0]} | {"rounds": samples}
    per_round = [ratios(one_round, cpus) for one_round in rounds]
    return {"cases": cases, "ratios": {name: _ratio(name, [one[name] for one in per_round]) for name in TARGETS}}


def ratios(cases: Mapping[str, Sample], cpus: int) -> dict[str, float]:
    """The three ratios of one round; see TARGETS. Ideal is the parts' CPU time spread evenly over all CPUs."""
    parts_cpu_ms = sum(cases[name].cpu_ms for name in PARTS)
    whole = cases["pipeline"]
    return {
        "cpu over parts": whole.cpu_ms / parts_cpu_ms,
        "wall over ideal": whole.wall_ms / (parts_cpu_ms / cpus),
        "speed over plain loop": cases["plain loop, x264"].wall_ms / whole.wall_ms,
    }


def _ratio(name: str, values: list[float]) -> dict[str, Any]:
    sense, target = TARGETS[name]
    value = median(values)
    met = value <= target if sense == "<=" else value >= target
    return {"value": value, "target": f"{sense} {target}", "met": met, "rounds": values}


def _text(findings: dict[str, Any]) -> str:
    settings = findings["settings"]
    lines = (
        f"clip: {settings['clip']}",
        f"{settings['model']}, {settings['encoder']}",
        f"{settings['frames']} frames, medians of {settings['rounds']} rounds",
        "",
        _case_table(findings["cases"]),
        "",
        _ratio_table(findings["ratios"]),
    )
    return "\n".join(lines)


def _case_table(cases: dict[str, Any]) -> str:
    head = ("per frame", "wall ms", "CPU ms", "frames/s", "system ms", "page faults", "switches", "others' CPUs")
    formats = {
        "wall_ms": ".2f",
        "cpu_ms": ".2f",
        "fps": ".1f",
        "system_ms": ".2f",
        "page_faults": ".0f",
        "switches": ".1f",
        "others_cpus": ".2f",
    }
    rows = [(name, *(format(case[key], spec) for key, spec in formats.items())) for name, case in cases.items()]
    return table(head, rows)


def _ratio_table(found: dict[str, Any]) -> str:
    rows = []
    for name, ratio in found.items():
        spread = f"{min(ratio['rounds']):.3f} to {max(ratio['rounds']):.3f}"
        rows.append((name, f"{ratio['value']:.3f}", spread, ratio["target"], "met" if ratio["met"] else "missed"))
    return table(("ratio", "median", "rounds", "target", ""), rows)
