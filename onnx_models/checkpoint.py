"""Checkpoints: everything needed to go on, or to export, in one file written atomically."""

from __future__ import annotations

import dataclasses
import os
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onnx_models.config import Config, parse_config
from onnx_models.errors import TrainingError
from onnx_models.networks import Network

if TYPE_CHECKING:
    from pathlib import Path

LOG = "log.jsonl"
"""Beside a checkpoint: a JSON object a line, of losses and validations."""


@dataclass
class Checkpoint:
    """The state of a training after `step` steps."""

    config: Config
    step: int
    minutes: float
    """Time spent training so far."""
    network: dict[str, Any]
    ema: dict[str, Any]
    optimisers: list[dict[str, Any]]
    peaks: list[float] = field(default_factory=list)
    """Largest input of every convolution on the validation patches; empty before the first validation."""
    judge: dict[str, Any] | None = None
    """State of the judge, if there is one."""

    def save(self, path: Path) -> None:
        """Write beside the target, then rename."""
        state = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        state["config"] = dataclasses.asdict(self.config)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        torch.save(state, partial)
        partial.replace(path)

    def trained_network(self) -> Network:
        """The averaged network, on the CPU, for evaluation and export."""
        network = Network(self.config.shape)
        network.load_state_dict(self.ema)
        return network.eval()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainingError: it is missing or not a checkpoint of this project.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["config"] = parse_config(_lists(state["config"]), str(path))
        return Checkpoint(**state)
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); name a file "
            "that `python -m onnx_models train` has written"
        ) from error


def _lists(value: Any) -> Any:
    """Tuples as lists, as TOML would give them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_lists(item) for item in value]
    return value
