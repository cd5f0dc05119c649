"""A model through ONNX Runtime alone, to measure it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_models.cards import CardError, load_card, read_card, verify
from onnx_models.errors import TrainingError
from onnx_models.level import LEVEL_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_models.quality import Luma

Levels = tuple[float, float]
"""Level and noise, see `onnx_models.level`."""
UNTOUCHED: Levels = (0.0, 0.0)
PROBE_PX = 16


class OnnxEnhancer:
    """A model through ONNX Runtime on the CPU; sizes are padded and cropped here.

    Args:
        path: an ONNX file that fulfils the contract of `onnx_models.graph`.
        multiple_of: input sizes the model takes.
        threads: of ONNX Runtime.

    Raises:
        TrainingError: the file is missing, cannot be opened, or has another contract.
    """

    def __init__(self, path: Path, *, multiple_of: int = 1, threads: int = 1) -> None:
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types are private
            raise TrainingError(f"model {path} cannot be opened: {error}") from error
        inputs = self._session.get_inputs()
        _check_contract(path, inputs, self._session.get_outputs())
        self._multiple = multiple_of
        self._conditioned = "level" in [value.name for value in inputs]
        try:
            out = self.run(np.zeros((PROBE_PX, PROBE_PX), np.uint8))
        except Exception as error:
            raise TrainingError(f"model {path} cannot enhance {PROBE_PX}x{PROBE_PX} px: {error}") from error
        self.scale = out.shape[0] // PROBE_PX
        if not self.scale:
            raise TrainingError(f"model {path} makes pictures smaller, which can't be measured")

    def run(self, luma: Luma, levels: Levels = UNTOUCHED, strength: float = 1.0) -> Luma:
        """Enhance uint8 `[H,W]` to uint8 `[sH,sW]`."""
        height, width = luma.shape
        pad = ((0, -height % self._multiple), (0, -width % self._multiple))
        feeds = {
            "luma": np.pad(luma, pad, mode="edge")[None, None],
            "strength": np.array([strength], np.float32),
        }
        if self._conditioned:
            feeds |= {name: np.array([value], np.float32) for name, value in zip(LEVEL_NAMES, levels, strict=True)}
        out: Luma = self._session.run(["enhanced"], feeds)[0][0, 0]
        scale = out.shape[0] // (height + pad[0][1])
        return out[: height * scale, : width * scale]


def _check_contract(path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    pixels, number = "tensor(uint8)", "tensor(float)"
    plain = {"luma": pixels, "strength": number}
    taken, given = ({value.name: value.type for value in values} for values in (inputs, outputs))
    if taken not in (plain, plain | dict.fromkeys(LEVEL_NAMES, number)) or given != {"enhanced": pixels}:
        said, made = (", ".join(f"{name} ({kind})" for name, kind in each.items()) for each in (taken, given))
        raise TrainingError(
            f"model {path} takes {said} and gives {made}; what is measured takes luma ({pixels}), strength and perhaps "
            f"{' and '.join(LEVEL_NAMES)}, and gives enhanced: `streamer models import` makes such a model of others"
        )


def open_enhancer(model: str, threads: int = 1) -> OnnxEnhancer:
    """A model by its name in the zoo, or by the path of an ONNX file (with a card beside it or without).

    Raises:
        TrainingError: no such model, it isn't what its card says, or it cannot be opened.
    """
    path = Path(model)
    card_path = path.with_suffix(".toml")
    multiple = 4
    try:
        if path.suffix != ".onnx" or card_path.exists():
            card = load_card(model) if path.suffix != ".onnx" else read_card(card_path)
            verify(card)
            path, multiple = card.path, card.multiple_of
    except CardError as error:
        raise TrainingError(str(error)) from error
    return OnnxEnhancer(path, multiple_of=multiple, threads=threads)
