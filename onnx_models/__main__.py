"""`python -m onnx_models train | export | evaluate | curves | table`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_models.cards import CardError
from onnx_models.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _add_sets(command: argparse.ArgumentParser) -> None:
    command.add_argument("--clips", type=Path, nargs="+", default=[], help="folders of clips")
    command.add_argument("--photos", type=Path, nargs="+", default=[], help="folders of photos")
    command.add_argument("--pictures", type=Path, nargs="+", default=[], help="folders of published sets, one each")
    command.add_argument("--frames", type=count, default=32, help="of each clip")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    command_line = argparse.ArgumentParser(prog="python -m onnx_models", description=__doc__)
    commands = command_line.add_subparsers(required=True, dest="command", metavar="COMMAND")
    train = commands.add_parser("train", help="train a network; continues what --out holds")
    train.add_argument("config", type=Path, help="TOML, see onnx_models/configs")
    train.add_argument("--data", type=Path, nargs="+", required=True, help="photos and clips")
    train.add_argument("--out", type=Path, required=True, help="checkpoint, log, patches")
    train.add_argument("--pool", type=Path, help="folder of the patches, default --out")
    train.add_argument("--start-from", type=Path, help="begin with this checkpoint's weights")
    train.add_argument("--device", default="cpu")
    train.add_argument("--threads", type=count, help="default: torch decides")
    train.add_argument("--jobs", type=count, default=1, help="processes that make patches")
    train.add_argument("--compile", action="store_true", help="let torch compile the network")
    export = commands.add_parser("export", help="checkpoint to ONNX and card, checked")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("name")
    export.add_argument("--folder", type=Path, help="default: the shipped models")
    _add_sets(export)
    export.add_argument("--reduce", type=count, default=2, help="measure on clips a second time, reduced by this first")
    export.add_argument("--clips-name", default="development clips", help="for the card")
    export.add_argument("--photos-name", default="development photographs", help="for the card")
    evaluate = commands.add_parser("evaluate", help="PSNR-Y and SSIM against interpolation or input")
    evaluate.add_argument("model", help="name in the zoo, or an ONNX file")
    _add_sets(evaluate)
    evaluate.add_argument("--every", type=count, default=4, help="score one frame in so many")
    evaluate.add_argument("--reduce", type=count, default=1, help="reduce the originals first")
    evaluate.add_argument("--threads", type=count, default=1)
    evaluate.add_argument("--json", type=Path, help="write every figure here")
    curves = commands.add_parser("curves", help="how the shipped models learnt, as a picture, from their cards")
    curves.add_argument("picture", type=Path, help="an SVG or PNG to write")
    commands.add_parser("table", help="the README's table of models, from their cards")
    return command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed (the reason is printed), 2 bad usage."""
    args = parser().parse_args(argv)
    try:
        module = importlib.import_module(f"onnx_models.{args.command}")
        print(module.command(args))
    except ModuleNotFoundError as error:
        missing = f"{args.command} needs {error.name}, which is not installed"
        print(f"error: {missing}; pip install 'streamer-enhancer[train]'", file=sys.stderr)
        return 1
    except (TrainingError, CardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
