"""`networks`: how long each network takes on a frame, beside a reference of known shape in the same run.

The engine has two frames in flight on all CPUs, as in the product. Rounds interleave the networks, so that a slow
minute of the machine falls on all of them; ratios are taken within a round, and their median is reported.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import engines
from benchmarks.machine import Usage, facts
from benchmarks.report import Report, table
from onnx_models.cards import list_cards
from streamer.errors import UsageError

REFERENCE = "x2-w24d3u2"
SIZES = {1: (720, 1280)}
"""(height, width) by scale; enlarging networks get a quarter of it."""
SMALL = (360, 640)
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network to time: a shipped model, or a shape with random weights."""

    name: str
    model: Path | bytes
    scale: int
    macs_per_px: int


def run(shapes: list[str], frames: int, repeat: int, engine: str, *, shipped: bool = True) -> Report:
    """Times the shipped models, then `shapes` such as "x2-w16d2u1", each on `frames` frames, `repeat` times."""
    machine = facts()
    candidates = [shape_of(name) for name in dict.fromkeys([REFERENCE, *shapes])]
    if shipped:
        cards = list_cards()
        candidates += [Candidate(card.name, card.path, card.scale, card.macs_per_px) for card in cards]
    rounds = [{c.name: time_frame(c, frames, engine) for c in candidates} for _ in range(repeat)]
    found = {
        c.name: {
            "scale": c.scale,
            "macs_per_px": c.macs_per_px,
            "ms": median(one[c.name] for one in rounds),
            "over reference": median(one[c.name] / one[REFERENCE] for one in rounds),
            "rounds": [one[c.name] for one in rounds],
        }
        for c in candidates
    }
    return Report.of({"networks": found, "engine": engine}, _text(found), machine)


def shape_of(name: str) -> Candidate:
    """A network of a shape, such as "x2-w16d2u1" or "x1-w16d3u2-level", with random weights. Needs torch.

    Raises UsageError for a name that is no shape.
    """
    match = re.fullmatch(r"x(\d)-w(\d+)d(\d+)u(\d+)(-level)?", name)
    if match is None:
        raise UsageError(f"{name!r} is no shape: write it like x2-w16d2u1 or x1-w16d3u2-level")
    from onnx_models.graph import build_model
    from onnx_models.networks import Network, Shape

    scale, width, depth, unshuffle = (int(match[i]) for i in range(1, 5))
    try:
        shape = Shape(scale, width, depth, unshuffle, conditioned=bool(match[5]))
    except ValueError as error:
        raise UsageError(f"{name!r} is no shape: {error}") from error
    return Candidate(name, build_model(Network(shape), name).SerializeToString(), scale, shape.macs_per_px)


def time_frame(candidate: Candidate, frames: int, engine: str) -> float:
    """Wall milliseconds a frame, two in flight."""
    height, width = SIZES.get(candidate.scale, SMALL)
    with engines.open_engine(engines.EngineRequest(candidate.model, width, height, engine=engine)) as opened:
        return frame_ms(opened, frames)


def frame_ms(opened: engines.Engine, frames: int) -> float:
    """Wall milliseconds a frame of noise, with as many in flight as the engine has slots."""
    size = next(spec.shape for spec in opened.inputs if spec.name == "luma")
    luma = np.random.default_rng(0).integers(16, 236, size, np.uint8)
    scalars = {spec.name: np.full(spec.shape, 0.5, spec.dtype) for spec in opened.inputs if spec.name != "luma"}
    flying: deque[engines.Ticket] = deque()
    for number in range(WARM_UP + frames):
        if number == WARM_UP:
            before = Usage.now()
        if len(flying) == opened.slots:
            opened.collect(flying.popleft())
        flying.append(opened.submit({"luma": luma, **scalars}))
    while flying:
        opened.collect(flying.popleft())
    return Usage.now().since(before).wall_ns / 1e6 / frames


def _text(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found.items():
        height, width = SIZES.get(one["scale"], SMALL)
        spread = f"{min(one['rounds']):.1f} to {max(one['rounds']):.1f}"
        ratio = f"{one['over reference']:.2f}"
        rows.append((name, f"{width}x{height}", one["macs_per_px"], f"{one['ms']:.1f}", spread, ratio))
    return table(("network", "input", "MAC per px", "ms a frame", "rounds", f"over {REFERENCE}"), rows)
