"""`soak`: a network camera enhanced for a long time: does it hold its rate, lose frames, or grow?

A publisher and the program are processes of their own, the RTSP server between them a thread of this one; all of them
share the machine. The program tells its figures once a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.latency import Publisher
from benchmarks.machine import facts, resident_mib
from benchmarks.relay import RtspRelay
from benchmarks.report import Report, table
from onnx_models.cards import load_card

WARM_UP_S = 1
"""Frames that are lost before that, while the engine opens, are counted apart: up to the first event from then on."""
ROWS = 10
_LIMIT_S = 60.0


def run(seconds: int, model: str) -> Report:
    """Enhances 640x360 at 30 frames/s from RTSP into a file for so long.

    Raises BenchmarkError if it ends early or gives no frames, CardError for an unknown model.
    """
    load_card(model)
    machine = facts()
    with (
        tempfile.TemporaryDirectory(prefix="streamer-soak-") as folder,
        RtspRelay() as relay,
        Publisher(relay.url("in")),
    ):
        relay.wait_published("in")
        seen, summary = watch(relay.url("in"), Path(folder) / "enhanced.mkv", seconds, model)
    warm, last = warmed_up(seen), seen[-1]
    findings = {
        "settings": {"input": "640x360, 30 frames/s, RTSP", "model": model, "seconds": seconds},
        "fps": round((last["frames"] - warm["frames"]) / (last["time_s"] - warm["time_s"]), 3),
        "dropped_first": sum(warm["dropped"].values()),
        "dropped": sum(last["dropped"].values()) - sum(warm["dropped"].values()),
        "late": last["lagged"] - warm["lagged"],
        "resident_mib": [event["resident_mib"] for event in seen],
        "latency_ms": summary["stats"]["latency_ms"],
        "events": summary["stats"]["events"],
        "seconds": [[event["time_s"], event["frames"], event["fps"], event["latency_ms"]["p95"]] for event in seen],
    }
    return Report.of(findings, _text(findings, seen), machine)


def warmed_up(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The event from which on frames are counted. Raises BenchmarkError if no other comes after it."""
    for event in seen[:-1]:
        if event["frames"] and event["time_s"] >= WARM_UP_S:
            return event
    raise BenchmarkError(
        f"no frames between second {WARM_UP_S} and {seen[-1]['time_s']}, the last: run it for longer (--seconds)"
    )


def watch(url: str, out: Path, seconds: int, model: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One run of the program: what it told each second with its memory then, and its summary."""
    command = [sys.executable, "-m", "streamer", "enhance", url, str(out), "--model", model]
    seen: list[dict[str, Any]] = []
    with subprocess.Popen([*command, "--json", "--preset", "ultrafast"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        watchdog = threading.Timer(seconds + _LIMIT_S, program.kill)
        watchdog.start()
        last: dict[str, Any] = {}
        for line in program.stdout:
            last = json.loads(line)
            if last.get("event") == "stats" and len(seen) < seconds:
                seen.append({**last, "resident_mib": round(resident_mib(program.pid), 1)})
                if len(seen) == seconds:
                    program.terminate()
        watchdog.cancel()
    if len(seen) < seconds or "stats" not in last:
        raise BenchmarkError(f"the program ended after {len(seen)} of {seconds} s")
    return seen, last


def _text(findings: dict[str, Any], seen: list[dict[str, Any]]) -> str:
    length = -(-len(seen) // ROWS)
    rows = []
    for start in range(0, len(seen), length):
        part = seen[start : start + length]
        before = seen[start - 1]["frames"] if start else 0
        fps = (part[-1]["frames"] - before) / len(part)
        p95 = max(event["latency_ms"]["p95"] for event in part)
        middle = median(event["latency_ms"]["p50"] for event in part)
        lost, late = sum(part[-1]["dropped"].values()), part[-1]["lagged"]
        memory = fmean(event["resident_mib"] for event in part)
        end = f"{part[-1]['time_s']:.0f}"
        rows.append((end, f"{fps:.2f}", f"{middle:.0f}", f"{p95:.0f}", lost, late, f"{memory:.1f}"))
    head = ("until s", "frames/s", "p50 ms", "worst p95 ms", "lost so far", "late so far", "resident MiB")
    settings, whole = findings["settings"], findings["latency_ms"]
    return "\n".join(
        (
            f"{settings['input']} -> {settings['model']} -> x264 ultrafast, Matroska",
            "",
            table(head, rows),
            "",
            f"{findings['fps']:.2f} frames/s, {findings['dropped']} lost and {findings['late']} late after a second",
            f"lost before: {findings['dropped_first']}; latency p50/p95/p99: "
            + "/".join(f"{whole[p]:.0f}" for p in ("p50", "p95", "p99"))
            + " ms",
        )
    )
