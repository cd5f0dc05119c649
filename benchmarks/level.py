"""`level`: how well does `streamer.level` see how degraded pictures are, and where do its weights come from?"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
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
from streamer.level import MEASURED_EVERY, QP_RANGE, estimate, inputs, noise_of_qp, statistics
from streamer.level_weights import HIDDEN, OUTPUT

HIDDEN_UNITS = 24
FOLDS = 8
"""With --fit, every source is judged by weights that were made without it: one of so many parts is left out."""
CLEAN_ENOUGH = 0.15
_BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01))
_STEPS, _BATCH, _RATE, _DECAY = 6000, 1024, 0.01, 1e-4
_UPWARDS = np.array([1.5, 2.0])
"""How much more an estimate too high costs than one too low: of the compression, of the noise."""
_CLEAN_WEIGHT, _NOISE_WEIGHT = 6.0, 2.0
"""Clean material must stay clean; from most of what is compressed, all noise is gone."""
_HUBER_QP = 3.0
"""Larger errors count linearly: some sources were degraded before we got them."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """One picture: where it is from, what was done to it, and what the meter sees of it."""

    source: str
    kind: str
    case: int
    truth: tuple[float, float]
    """The quantisation parameters of the compression and with the error of the noise, -inf for none."""
    told: float | None
    """What the meter is told of the first of them."""
    statistics: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """One of the two outputs: column of truths and estimates, and how an estimate becomes a level."""

    name: str
    column: int
    level_of: Callable[[float], float]


OUTPUTS = (Output("level", 0, level_of_qp), Output("noise", 1, noise_of_qp))


@dataclass(frozen=True, slots=True)
class Weights:
    """A network of one hidden layer; the last row of both parts is the bias."""

    hidden: Array
    output: Array

    def __call__(self, looks: Sequence[Look]) -> Array:
        """Estimated quantisation parameters [n, 2]."""
        return np.clip(_biased(np.tanh(_biased(_inputs(looks)) @ self.hidden)) @ self.output, *QP_RANGE)

    def write(self, path: Path) -> None:
        """As the Python module that `streamer.level` reads."""
        lines = [
            '"""Weights of the estimate in `streamer.level`, made by `python -m benchmarks level --fit`."""',
            "",
            "# fmt: off",
            "HIDDEN = (",
            *_rows(self.hidden),
            ")",
            '"""One row for each input, and the biases: [inputs + 1, hidden]."""',
            "",
            "OUTPUT = (",
            *_rows(self.output),
            ")",
            '"""One row for each hidden unit, and the biases: [hidden + 1, 2]; they give quantisation parameters."""',
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(part: Array) -> list[str]:
    rows = [textwrap.fill(", ".join(f"{value:.4g}" for value in row), 112) for row in part]
    return [textwrap.indent(f"({row}),", "    ") for row in rows]


def run(folders: Sequence[Path], weights_file: Path | None) -> Report:
    """Judges the shipped weights; with `weights_file`, makes new ones, writes them there and judges how they were made.

    Raises TrainingError if the folders hold nothing to degrade.
    """
    machine = facts()
    looks = list(look(folders))
    if weights_file is None:
        estimates = _shipped()(looks)
        judged = "the shipped weights"
    else:
        fit(looks).write(weights_file)
        estimates = left_out(looks)
        judged = f"weights made without the source they judge ({FOLDS} parts)"
    rows = {output.name: errors(looks, estimates, output) for output in OUTPUTS}
    milliseconds = cost_ms()
    findings: dict[str, Any] = {
        "settings": {"sources": len({one.source for one in looks}), "pictures": len(looks), "weights": judged},
        "errors": rows,
        "cost_ms": {"picture": milliseconds, "frame": milliseconds / MEASURED_EVERY},
    }
    tables = "\n\n".join(_table(name, found) for name, found in rows.items())
    text = (
        f"{tables}\n\nSeen in pictures by {judged}, {findings['settings']['sources']} sources.\n"
        f"{milliseconds:.2f} ms a measured picture of 1280x720, {milliseconds / MEASURED_EVERY:.2f} ms a frame."
    )
    return Report.of(findings, text, machine)


def _table(name: str, rows: dict[str, dict[str, float]]) -> str:
    head = (f"{name} of what, truth", "cases", "mean abs error", "bias", "share at 0", f"share <= {CLEAN_ENOUGH}")
    cells = [
        (
            what,
            row["cases"],
            f"{row['error']:.3f}",
            f"{row['bias']:+.3f}",
            f"{row['at 0']:.2f}",
            f"{row['clean enough']:.2f}",
        )
        for what, row in rows.items()
    ]
    return table(head, cells)


def look(folders: Sequence[Path]) -> Iterator[Look]:
    """All pictures of all cases of all sources, as far as they show anything; once more if the decoder tells."""
    for number, (source, case) in enumerate(degraded(folders)):
        seen = [found for luma in case.frames if (found := statistics(luma)) is not None]
        truth = (case.qp, case.noise_qp)
        for kind, told in ((case.kind, None), (f"{case.kind}, told", case.told)):
            if told is not None or kind == case.kind:
                yield from (Look(source, kind, number, truth, told, found) for found in seen)


def errors(looks: Sequence[Look], estimates: Array, output: Output) -> dict[str, dict[str, float]]:
    """Error of one level, by kind of degradation and true level; pictures of one case are averaged first.

    The compression isn't estimated where it was told.
    """
    cases: list[tuple[str, float, float]] = []
    column = output.column
    judged = [pair for pair in zip(looks, estimates, strict=True) if column == 1 or pair[0].told is None]
    for (_, kind), group in groupby(judged, key=lambda pair: (pair[0].case, pair[0].kind)):
        pairs = list(group)
        found = float(np.mean([both[column] for _, both in pairs]))
        cases.append((kind, level_of_qp(pairs[0][0].truth[column]), output.level_of(found)))
    named: dict[str, list[tuple[float, float]]] = {}
    for kind in dict.fromkeys(kind for kind, _, _ in cases):
        ours = [(true, found) for one, true, found in cases if one == kind]
        named[kind] = ours
        bands = [
            (low, high, part) for low, high in _BANDS if (part := [pair for pair in ours if low <= pair[0] < high])
        ]
        for low, high, part in bands if len(bands) > 1 else ():
            named[f"  {kind}, {low:.2f}-{min(high, 1):.2f}"] = part
    named["all that have none"] = [(true, found) for _, true, found in cases if true == 0]
    named["all that have some"] = [(true, found) for _, true, found in cases if true > 0]
    return {name: _row(pairs) for name, pairs in named.items() if pairs}


def _row(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    difference = np.array([found - true for true, found in pairs])
    return {
        "cases": len(pairs),
        "error": float(np.abs(difference).mean()),
        "bias": float(difference.mean()),
        "at 0": float(np.mean([found == 0 for _, found in pairs])),
        "clean enough": float(np.mean([found <= CLEAN_ENOUGH for _, found in pairs])),
    }


def left_out(looks: Sequence[Look]) -> Array:
    """Estimates for every picture [n, 2], by weights made without any picture of its source."""
    names = sorted({one.source for one in looks})
    order = np.random.default_rng(0).permutation(len(names))
    part_of = {names[index]: place % FOLDS for place, index in enumerate(order)}
    estimates = np.zeros((len(looks), 2))
    for part in range(min(FOLDS, len(names))):
        held = np.array([part_of[one.source] == part for one in looks])
        weights = fit([one for one, out in zip(looks, held, strict=True) if not out])
        estimates[held] = weights([one for one, out in zip(looks, held, strict=True) if out])
    return estimates


def fit(looks: Sequence[Look]) -> Weights:
    """Weights with the least error on these pictures (Adam; the same for the same pictures)."""
    seen = _inputs(looks)
    mean, spread = seen.mean(0), seen.std(0) + 1e-6
    scaled = _biased((seen - mean) / spread)
    targets = np.clip([one.truth for one in looks], CLEAN_QP, HEAVY_QP)
    costs = np.where(targets > CLEAN_QP, (1.0, _NOISE_WEIGHT), 1.0)
    costs[[one.kind == "clean" for one in looks]] *= _CLEAN_WEIGHT
    costs[[one.told is not None for one in looks], 0] = 0
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 0.1, (scaled.shape[1], HIDDEN_UNITS)), rng.normal(0, 0.1, (HIDDEN_UNITS + 1, 2))]
    parts[1][-1] = 2.5, 1.5  # in tens, as all of the output
    slopes, squares = [np.zeros_like(part) for part in parts], [np.zeros_like(part) for part in parts]
    for step in range(1, _STEPS + 1):
        chosen = rng.integers(0, len(scaled), _BATCH)
        gradients = _gradients(parts, scaled[chosen], targets[chosen], costs[chosen])
        rate = _RATE * min(1.0, step / 200, 2 * (1 - step / _STEPS))
        for part, gradient, slope, square in zip(parts, gradients, slopes, squares, strict=True):
            slope += 0.1 * (gradient - slope)
            square += 0.001 * (gradient**2 - square)
            part -= rate * (slope / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    hidden = parts[0].copy()
    hidden[:-1] /= spread[:, None]
    hidden[-1] -= mean @ hidden[:-1]
    return Weights(hidden, 10 * parts[1])


def _gradients(parts: Sequence[Array], scaled: Array, targets: Array, costs: Array) -> tuple[Array, Array]:
    hidden, output = parts
    units = np.tanh(scaled @ hidden)
    estimates = 10 * (_biased(units) @ output)
    # Beyond the levels 0 and 1 every estimate is as good as another.
    difference = np.where(
        (targets <= CLEAN_QP) & (estimates < CLEAN_QP) | (targets >= HEAVY_QP) & (estimates > HEAVY_QP),
        0.0,
        estimates - targets,
    )
    slope = np.clip(difference, -_HUBER_QP, _HUBER_QP) / 10 * np.where(difference > 0, _UPWARDS, 1.0)
    slope *= costs / len(costs)
    back = slope @ output[:-1].T * (1 - units**2)
    return scaled.T @ back + 2 * _DECAY * hidden, _biased(units).T @ slope


def cost_ms() -> float:
    """Processor time of one estimate of a 1280x720 picture."""
    luma = np.random.default_rng(0).integers(16, 235, (720, 1280), np.uint8)
    estimate(luma)
    rounds = []
    for _ in range(50):
        started = time.thread_time_ns()
        estimate(luma)
        rounds.append((time.thread_time_ns() - started) / 1e6)
    return float(np.median(rounds))


def _shipped() -> Weights:
    return Weights(np.array(HIDDEN), np.array(OUTPUT))


def _inputs(looks: Sequence[Look]) -> Array:
    return np.stack([inputs(one.statistics, one.told) for one in looks]).astype(np.float64)


def _biased(values: npt.NDArray[Any]) -> Array:
    return np.concatenate([values, np.ones((*values.shape[:-1], 1))], axis=-1)
