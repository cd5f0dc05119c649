"""From a checkpoint to a shipped model: ONNX file and card, both checked, written atomically."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_models.cards import ZOO, Metric, ModelCard, publish
from onnx_models.checkpoint import LOG, Checkpoint, load_checkpoint
from onnx_models.errors import TrainingError
from onnx_models.evaluate import CLIPS, PHOTOS, Sampling, evaluate
from onnx_models.graph import build_model, reference_values
from onnx_models.level import LEVEL_NAMES

if TYPE_CHECKING:
    import argparse

    import onnx

    from onnx_models.evaluate import Report
    from onnx_models.networks import Network

HEADROOM = 1.25
"""Other pictures make activations larger than those of validation did; the first ones can't be."""
PARITY_CODES = 1
"""Codes by which a back end may differ from torch: sums in another order cross a rounding edge."""
PARITY_SHARE = 1e-3
"""Share of pixels that may differ, beside those that are..."""
TIE_CODES = 1e-3
"""... so near to one half of a code that the order of a sum rounds them up or down. Bicubic enlargement by 4 has many:
its phases of an eighth of a pixel give sums of 28 bits, of which float32 keeps 24."""


Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], NDArray[np.uint8]]


def _open_onnxruntime(model: onnx.ModelProto) -> Run:
    ort: Any = importlib.import_module("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> NDArray[np.uint8]:
        return np.asarray(session.run(["enhanced"], feeds)[0][0, 0])

    return run


def _open_openvino(model: onnx.ModelProto) -> Run:
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # else importing openvino reports to a server
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}  # CPUs with bf16 would silently use it
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", hints)

    def run(feeds: Feeds) -> NDArray[np.uint8]:
        return np.asarray(compiled(feeds)["enhanced"][0, 0])

    return run


BACKENDS = {"ONNX Runtime": _open_onnxruntime, "OpenVINO": _open_openvino}


def check_parity(model: onnx.ModelProto, network: Network) -> dict[str, float]:
    """Compare every back end with torch on noise and gradients, at several strengths and sizes.

    Returns:
        Largest share of differing pixels, by back end.

    Raises:
        TrainingError: a back end computes another function, or strength 0 is not exact.
    """
    shares = dict.fromkeys(BACKENDS, 0.0)
    opened = {name: open_backend(model) for name, open_backend in BACKENDS.items()}
    conditions = ((0.0, 0.0), (0.6, 0.3)) if network.shape.conditioned else ((0.0, 0.0),)
    probes = _probes(network.shape.multiple_of)
    for luma, strength, levels in itertools.product(probes, (0.0, 0.5, 1.0, 1.5), conditions):
        values = reference_values(network, luma, strength, levels)
        expected = values.round().clip(0, 255).astype(int)
        settled = np.abs(values - np.floor(values) - 0.5) > TIE_CODES
        feeds: Feeds = {"luma": luma[None, None], "strength": np.array([strength], np.float32)}
        if network.shape.conditioned:
            feeds |= {name: np.array([value], np.float32) for name, value in zip(LEVEL_NAMES, levels, strict=True)}
        for name, run in opened.items():
            difference = np.abs(run(feeds) - expected)
            share = float(np.mean((difference > 0) & settled))
            if difference.max() > PARITY_CODES or share > (PARITY_SHARE if strength else 0):
                raise TrainingError(
                    f"{name} differs from torch by up to {difference.max()} codes in {share:.2%} of the pixels of a "
                    f"{luma.shape[1]}x{luma.shape[0]} picture at strength {strength}, levels {levels}: "
                    "the model is not exported"
                )
            shares[name] = max(shares[name], share)
    return shares


def _probes(multiple_of: int) -> Iterator[NDArray[np.uint8]]:
    """Ramps and noise of several sizes."""
    rng = np.random.default_rng(0)
    for height, width in ((8, 8), (46 * multiple_of, 37 * multiple_of), (120, 160)):
        yield (np.add.outer(np.arange(height), np.arange(width)) % 256).astype(np.uint8)
        yield rng.integers(0, 256, (height, width), np.uint8)


def metrics_of(report: Report, names: Mapping[str, str]) -> tuple[Metric, ...]:
    """The means of an evaluation as a card holds them.

    Args:
        report: what was measured.
        names: what the card calls the sets "clips" and "photos"; others keep the name of their folder.
    """
    metrics = []
    for row in report.means:
        where = (names.get(row.set, row.set), row.condition, report.protocols[row.set])
        own = row.scores["model"]
        metrics += [
            Metric("PSNR-Y", round(own.psnr_db, 3), "dB", *where),
            Metric(f"PSNR-Y gain over {row.baseline}", round(row.gain_db, 3), "dB", *where),
            Metric("SSIM-Y", round(own.ssim, 4), "", *where),
        ]
    for row in report.weakest():
        where = (names.get(CLIPS, CLIPS), f"{row.item}, {row.condition}", report.protocols[CLIPS])
        metrics.append(Metric(f"smallest PSNR-Y gain over {row.baseline}", round(row.gain_db, 3), "dB", *where))
    return tuple(metrics)


def read_curve(log: Path) -> tuple[tuple[int, float], ...]:
    """(steps, gain in dB) of every validation that a training logged; of a resumed one, what it came to last.

    Raises:
        TrainingError: a line is damaged. What a killed training left of its last line is left out.
    """
    if not log.exists():
        return ()
    *whole, _ = log.read_text(encoding="utf-8").split("\n")
    entries = []
    for number, line in enumerate(whole, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise TrainingError(f"line {number} of {log} is damaged ({error}); correct or remove it") from error
    return tuple(sorted({entry["step"]: float(entry["gain_db"]) for entry in entries if "gain_db" in entry}.items()))


def make_card(
    checkpoint: Path, saved: Checkpoint, name: str, content: bytes, folder: Path, metrics: Sequence[Metric]
) -> ModelCard:
    """The card of a checkpoint's network; `content` is the ONNX file's."""
    shape, text = saved.config.shape, saved.config.card
    how = f"{saved.step} steps of {saved.config.train.batch} patches, {saved.minutes:.0f} minutes"
    return ModelCard(
        name=name,
        task=text.task,
        scale=shape.scale,
        color="luma",
        conditioned=shape.conditioned,
        multiple_of=shape.multiple_of,
        halo_px=shape.halo_px,
        params=shape.params,
        macs_per_px=shape.macs_per_px,
        metrics=tuple(metrics),
        train_data=text.train_data,
        licence=text.licence,
        origin=f"{text.origin} Shape {shape}; {how}.".strip(),
        curve=read_curve(checkpoint.with_name(LOG)),
        sha256=hashlib.sha256(content).hexdigest(),
        limits=text.limits,
        path=folder / f"{name}.onnx",
    )


def export(checkpoint: Path, name: str, folder: Path = ZOO, metrics: Sequence[Metric] = ()) -> ModelCard:
    """Export a checkpoint as `<folder>/<name>.onnx` and `.toml`.

    Args:
        checkpoint: what `train` wrote.
        name: of the model.
        folder: where; default the shipped models.
        metrics: figures for the card.

    Raises:
        TrainingError: the checkpoint cannot be read, or a back end disagrees with torch.
    """
    saved = load_checkpoint(checkpoint)
    network = saved.trained_network()
    first, *inner = saved.peaks or [0.0]
    # At the same size what a network adds is a code or two, less than 8-bit integers lose: -0.6 dB on good streams.
    has_int8 = saved.peaks and network.shape.scale > 1
    model = build_model(network, name, [first, *(HEADROOM * peak for peak in inner)] if has_int8 else ())
    check_parity(model, network)
    content = model.SerializeToString()
    card = make_card(checkpoint, saved, name, content, folder, metrics)
    publish(card, content)
    return card


def command(args: argparse.Namespace) -> str:
    """`export`: measures a candidate first, when there is something to measure on, so that model
    and figures are published together; returns the model's path."""
    metrics: list[Metric] = []
    names = {CLIPS: args.clips_name, PHOTOS: args.photos_name}
    if args.clips or args.photos or args.pictures:
        with tempfile.TemporaryDirectory() as scratch:
            candidate = str(export(args.checkpoint, args.name, Path(scratch)).path)
            sampling = Sampling(args.frames)
            metrics += metrics_of(evaluate(candidate, args.clips, args.photos, args.pictures, sampling), names)
            if args.clips:
                again = replace(sampling, reduce=args.reduce)
                metrics += metrics_of(evaluate(candidate, args.clips, sampling=again), names)
    return str(export(args.checkpoint, args.name, args.folder or ZOO, metrics).path)
