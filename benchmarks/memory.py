"""`memory`: does a long run grow?"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.machine import facts, resident_mib
from benchmarks.report import Report, table
from onnx_models.cards import load_card
from streamer import EncoderSettings, EnhanceStage, Frame, Pipeline, make_sink, make_source

MODEL = "upscale-x2-nano"

_FIRST_MARK = 200
_MARKS_APART = 1000
_SPARE_FRAMES = 32
"""More frames than are looked at, so that no stage has ended and given its memory back by the last look."""


def run(frames: int) -> Report:
    """Runs the whole pipeline for `frames` frames into nothing and into a file, each in a process of its own."""
    machine = facts()
    with (
        tempfile.TemporaryDirectory(prefix="streamer-memory-") as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        targets = {"null:": "null:", "file": str(Path(folder) / "enhanced.mp4")}
        runs = {name: pool.submit(soak, frames, target).result() for name, target in targets.items()}
    findings = {"settings": {"input": _input(frames + _SPARE_FRAMES), "model": MODEL, "frames": frames}, "runs": runs}
    return Report.of(findings, _text(findings), machine)


def marks(frames: int) -> list[int]:
    """After how many delivered frames to look: once warm, then every thousand, and the last."""
    first = min(_FIRST_MARK, frames // 4)
    return sorted({first, *range(_MARKS_APART, frames, _MARKS_APART), frames})


def soak(frames: int, target: str) -> list[dict[str, Any]]:
    """Resident memory in MiB and picture buffers allocated by the enhance stage so far, at each mark."""
    stage = EnhanceStage(load_card(MODEL))
    wanted, seen, delivered = set(marks(frames)), [], 0

    def look(_frame: Frame) -> None:
        nonlocal delivered
        delivered += 1
        if delivered in wanted:
            resident = round(resident_mib(), 1)
            seen.append({"frame": delivered, "resident_mib": resident, "planes_allocated": stage.planes_allocated})

    sink = make_sink(target, EncoderSettings("h264", preset="ultrafast"))
    with Pipeline(make_source(_input(frames + _SPARE_FRAMES)), [stage], [sink], on_frame=look):
        pass
    return seen


def _input(frames: int) -> str:
    return f"test:640x360@30,{frames}"


def _text(findings: dict[str, Any]) -> str:
    parts = [f"{findings['settings']['input']} through {MODEL}"]
    for name, seen in findings["runs"].items():
        rows = [(mark["frame"], mark["resident_mib"], mark["planes_allocated"]) for mark in seen]
        growth = seen[-1]["resident_mib"] - seen[0]["resident_mib"]
        parts += [
            "",
            table((f"into {name}, frame", "resident MiB", "picture buffers"), rows),
            f"growth from the first to the last: {growth:+.1f} MiB",
        ]
    return "\n".join(parts)
