"""The training curves of the shipped models as a picture, from their cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_models.cards import list_cards
from onnx_models.errors import TrainingError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

SUFFIXES = (".svg", ".png")
TASKS = {"upscale": "over the interpolation", "restore": "over the input"}


def draw(path: Path) -> Path:
    """Validation gain against steps, one panel a task; vivid networks don't train for it. An SVG or PNG.

    Raises:
        TrainingError: the path is neither's.
    """
    if path.suffix not in SUFFIXES:
        raise TrainingError(f"cannot draw {path}: name an {' or '.join(SUFFIXES)} file")
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams |= {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(11, 3.6))
    for panel, (task, over) in zip(panels, TASKS.items(), strict=True):
        for card in list_cards():
            if card.task == task and card.curve and card.flavour != "vivid":
                steps, gains = zip(*card.curve, strict=True)
                thousands = [step / 1000 for step in steps]
                panel.plot(thousands, gains, marker=".", label=card.name.removeprefix(f"{task}-"))
        panel.set(xlabel="steps, thousands", ylabel=f"PSNR-Y gain {over}, dB")
        panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return path


def command(args: argparse.Namespace) -> str:
    """`curves`: returns the picture's path."""
    return str(draw(args.picture))
