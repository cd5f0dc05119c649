"""`level`: how well does `streamer.level` see how degraded pictures are, and where do its weights come from?"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import facts
from benchmarks.report import Report, table
from benchmarks.streams import degraded
from onnx_models.level import CLEAN_QP, HEAVY_QP, level_of_qp
from streamer.level import MEASURED_EVERY, QP_RANGE, blind_qp, statistics
from streamer.level_weights import HIDDEN, OUTPUT

HIDDEN_UNITS = 16
FOLDS = 8
"""With --fit, every source is judged by weights that were made without it: one of so many parts is left out."""
CLEAN_ENOUGH = 0.15
_BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01))
_STEPS, _BATCH, _RATE, _DECAY = 6000, 1024, 0.01, 1e-4
_UPWARDS = 1.5
"""How much more an estimate too high costs than one too low."""
_KIND_WEIGHTS = {"clean": 6.0, "noise, h264": 0.5}
"""Clean material must stay clean; an encoder removes some of the noise that the truth counts."""
_HUBER_QP = 3.0
"""Larger errors count linearly: some sources were degraded before we got them."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """One picture: where it is from, what was done to it, and what the meter sees of it."""

    source: str
    kind: str
    case: int
    qp: float
    """The truth: the quantisation parameter of the total error, -inf for none."""
    statistics: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """A network of one hidden layer; the last row of both parts is the bias."""

    hidden: Array
    output: Array

    def __call__(self, seen: npt.NDArray[Any]) -> Array:
        """Estimated quantisation parameters of statistics [n, features]."""
        return np.clip(_biased(np.tanh(_biased(seen) @ self.hidden)) @ self.output, *QP_RANGE)

    def write(self, path: Path) -> None:
        """As the Python module that `streamer.level` reads."""
        rows = [textwrap.fill(", ".join(f"{value:.4g}" for value in row), 112) for row in self.hidden]
        lines = [
            '"""Weights of the blind estimate in `streamer.level`, made by `python -m benchmarks level --fit`."""',
            "",
            "# fmt: off",
            "HIDDEN = (",
            *(textwrap.indent(f"({row}),", "    ") for row in rows),
            ")",
            '"""One row for each statistic, and the biases: [statistics + 1, hidden]."""',
            "",
            "OUTPUT = (",
            *(f"    {value:.4g}," for value in self.output),
            ")",
            '"""One for each hidden unit, and the bias; the sum is a quantisation parameter."""',
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(folders: Sequence[Path], weights_file: Path | None) -> Report:
    """Judges the shipped weights; with `weights_file`, makes new ones, writes them there and judges how they were made.

    Raises TrainingError if the folders hold nothing to degrade.
    """
    machine = facts()
    looks = list(look(folders))
    if weights_file is None:
        estimates = _shipped()(np.stack([one.statistics for one in looks]))
        judged = "the shipped weights"
    else:
        fit(looks).write(weights_file)
        estimates = left_out(looks)
        judged = f"weights made without the source they judge ({FOLDS} parts)"
    rows = errors(looks, estimates)
    milliseconds = cost_ms()
    findings: dict[str, Any] = {
        "settings": {"sources": len({one.source for one in looks}), "pictures": len(looks), "weights": judged},
        "errors": rows,
        "cost_ms": {"picture": milliseconds, "frame": milliseconds / MEASURED_EVERY},
    }
    head = ("what, true level", "cases", "mean abs error", "bias", f"share <= {CLEAN_ENOUGH}")
    cells = [
        (name, row["cases"], f"{row['error']:.3f}", f"{row['bias']:+.3f}", f"{row['clean enough']:.2f}")
        for name, row in rows.items()
    ]
    text = (
        f"{table(head, cells)}\n\nLevels from pictures alone, by {judged}, {findings['settings']['sources']} sources.\n"
        f"{milliseconds:.2f} ms a measured picture of 1280x720, {milliseconds / MEASURED_EVERY:.2f} ms a frame."
    )
    return Report.of(findings, text, machine)


def look(folders: Sequence[Path]) -> Iterator[Look]:
    """All pictures of all cases of all sources, as far as they show anything."""
    for number, (source, case) in enumerate(degraded(folders)):
        for luma in case.frames:
            seen = statistics(luma)
            if seen is not None:
                yield Look(source, case.kind, number, case.qp, seen)


def errors(looks: Sequence[Look], estimates: Array) -> dict[str, dict[str, float]]:
    """Error of the level, by kind of degradation and true level; pictures of one case are averaged first."""
    cases: list[tuple[str, float, float]] = []
    for _, group in groupby(zip(looks, estimates, strict=True), key=lambda pair: pair[0].case):
        pairs = list(group)
        first = pairs[0][0]
        cases.append((first.kind, level_of_qp(first.qp), level_of_qp(float(np.mean([qp for _, qp in pairs])))))
    named: dict[str, list[tuple[float, float]]] = {}
    for kind in dict.fromkeys(kind for kind, _, _ in cases):
        ours = [(true, found) for one, true, found in cases if one == kind]
        named[kind] = ours
        for low, high in _BANDS if kind != "clean" else ():
            if part := [pair for pair in ours if low <= pair[0] < high]:
                named[f"  {kind}, {low:.2f}-{min(high, 1):.2f}"] = part
    named["all but clean"] = [(true, found) for kind, true, found in cases if kind != "clean"]
    return {name: _row(pairs) for name, pairs in named.items() if pairs}


def _row(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    difference = np.array([found - true for true, found in pairs])
    return {
        "cases": len(pairs),
        "error": float(np.abs(difference).mean()),
        "bias": float(difference.mean()),
        "clean enough": float(np.mean([found <= CLEAN_ENOUGH for _, found in pairs])),
    }


def left_out(looks: Sequence[Look]) -> Array:
    """An estimate for every picture, by weights made without any picture of its source."""
    names = sorted({one.source for one in looks})
    order = np.random.default_rng(0).permutation(len(names))
    part_of = {names[index]: place % FOLDS for place, index in enumerate(order)}
    estimates = np.zeros(len(looks))
    for part in range(min(FOLDS, len(names))):
        held = np.array([part_of[one.source] == part for one in looks])
        weights = fit([one for one, out in zip(looks, held, strict=True) if not out])
        estimates[held] = weights(np.stack([one.statistics for one, out in zip(looks, held, strict=True) if out]))
    return estimates


def fit(looks: Sequence[Look]) -> Weights:
    """Weights with the least error on these pictures (Adam; the same for the same pictures)."""
    seen = np.stack([one.statistics for one in looks]).astype(np.float64)
    mean, spread = seen.mean(0), seen.std(0) + 1e-6
    inputs = _biased((seen - mean) / spread)
    targets = np.clip([one.qp for one in looks], CLEAN_QP, HEAVY_QP)
    costs = np.array([_KIND_WEIGHTS.get(one.kind, 1.0) for one in looks])
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 0.1, (inputs.shape[1], HIDDEN_UNITS)), rng.normal(0, 0.1, HIDDEN_UNITS + 1)]
    parts[1][-1] = 2.5  # in tens, as all of the output
    slopes, squares = [np.zeros_like(part) for part in parts], [np.zeros_like(part) for part in parts]
    for step in range(1, _STEPS + 1):
        chosen = rng.integers(0, len(inputs), _BATCH)
        gradients = _gradients(parts, inputs[chosen], targets[chosen], costs[chosen])
        rate = _RATE * min(1.0, step / 200, 2 * (1 - step / _STEPS))
        for part, gradient, slope, square in zip(parts, gradients, slopes, squares, strict=True):
            slope += 0.1 * (gradient - slope)
            square += 0.001 * (gradient**2 - square)
            part -= rate * (slope / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    hidden = parts[0].copy()
    hidden[:-1] /= spread[:, None]
    hidden[-1] -= mean @ hidden[:-1]
    return Weights(hidden, 10 * parts[1])


def _gradients(parts: Sequence[Array], inputs: Array, targets: Array, costs: Array) -> tuple[Array, Array]:
    hidden, output = parts
    units = np.tanh(inputs @ hidden)
    estimates = 10 * (_biased(units) @ output)
    # Beyond the levels 0 and 1 every estimate is as good as another.
    difference = np.where(
        (targets <= CLEAN_QP) & (estimates < CLEAN_QP) | (targets >= HEAVY_QP) & (estimates > HEAVY_QP),
        0.0,
        estimates - targets,
    )
    slope = np.clip(difference, -_HUBER_QP, _HUBER_QP) / 10 * np.where(difference > 0, _UPWARDS, 1.0)
    slope *= costs / len(costs)
    back = np.outer(slope, output[:-1]) * (1 - units**2)
    return inputs.T @ back + 2 * _DECAY * hidden, _biased(units).T @ slope


def cost_ms() -> float:
    """Processor time of one estimate of a 1280x720 picture."""
    luma = np.random.default_rng(0).integers(16, 235, (720, 1280), np.uint8)
    blind_qp(luma)
    rounds = []
    for _ in range(50):
        started = time.thread_time_ns()
        blind_qp(luma)
        rounds.append((time.thread_time_ns() - started) / 1e6)
    return float(np.median(rounds))


def _shipped() -> Weights:
    return Weights(np.array(HIDDEN), np.array(OUTPUT))


def _biased(values: npt.NDArray[Any]) -> Array:
    return np.concatenate([values, np.ones((*values.shape[:-1], 1))], axis=-1)
