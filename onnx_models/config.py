"""Training configurations: one TOML a network, every key known, nothing read twice."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from onnx_models.cards import TASKS
from onnx_models.degrade import DegradeMix
from onnx_models.errors import TrainingError
from onnx_models.limits import ANY_SIZE, COUNT, POSITIVE, SHARE, Limits, check
from onnx_models.networks import Shape
from onnx_models.pool import PoolSize, Recipe
from onnx_models.scenes import SceneMix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

T = TypeVar("T")

SHAVE_PX = 8
"""Border that validation leaves out, in pixels of the target."""
CROP_PX_MIN = 8
"""The squares of the losses on texture and flicker fit into it."""
JUDGED_MULTIPLE = 8
"""Sides that the judge takes, see `onnx_models.judge`."""


@dataclass(frozen=True)
class TrainPlan:
    """The optimisation."""

    steps: int = 100_000
    batch: int = 8
    crop_px: int = 64
    """Side of what is cut from a patch, in input pixels."""
    optimiser: str = "muon"
    """muon: Muon on kernels, AdamW on biases; adam: AdamW on everything."""
    matrix_rate: float = 0.01
    """Learning rate of Muon."""
    rate: float = 1e-3
    """Learning rate of AdamW."""
    warmup_steps: int = 100
    decay_share: float = 1.0
    """The last share of the steps over which the rate falls linearly to `final_rate`."""
    final_rate: float = 0.01
    """Relative to the rate before."""
    precision: str = "f32"
    """f32, or bf16: layers in bfloat16 (weights, loss and averages stay f32), about twice as fast
    where the processor has it."""
    precise_share: float = 0.1
    """The last share of the steps, which is in f32 in any case."""
    clip_norm: float = 0.5
    ema: float = 0.999
    loss: str = "l1"
    """l1, mse, relative (l1 over the interpolation's own l1, patch by patch), relative_mse (the same of mean
    squares), balanced_mse (mean square over the root of the interpolation's own: between mse and relative_mse) or
    logmse (the logarithm of each patch's mean square, which is its PSNR)."""
    harm_weight: float = 0.0
    """Of what patches lost against the interpolation, added to the loss: teaches to leave alone what is good. Rises
    from 0 over all steps, as a network that has to do no harm before it can help learns to do nothing."""
    texture_weight: float = 0.0
    """Of the difference in local contrast of fine detail, added to the loss, as much as a picture is to be vivid."""
    flicker_weight: float = 0.0
    """Of how much further the change from frame to frame is from the target's than the interpolation's is, likewise;
    needs [pool] successive."""
    judge_weight: float = 0.0
    """Of the judge's displeasure (see `onnx_models.judge`), likewise; 0: no judge."""
    gain_min_db: float = 0.0
    """Training stops if validation is not above the interpolation by this; vivid pictures are below."""
    validate_every: int = 2_000
    assert_after: int = 4_000
    """From this step on validation must gain `gain_min_db`."""
    log_every: int = 500

    def __post_init__(self) -> None:
        choices = {
            "optimiser": ("muon", "adam"),
            "loss": ("l1", "mse", "balanced_mse", "relative", "relative_mse", "logmse"),
            "precision": ("f32", "bf16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(allowed)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {listed}")
        counts = dict.fromkeys(("steps", "batch", "validate_every", "log_every"), COUNT)
        shares = dict.fromkeys(("decay_share", "precise_share", "ema"), SHARE)
        weights = ("harm_weight", "texture_weight", "flicker_weight", "judge_weight")
        sizes = dict.fromkeys(("matrix_rate", "rate", "warmup_steps", "final_rate", "assert_after", *weights), ANY_SIZE)
        others = {"crop_px": Limits(CROP_PX_MIN), "clip_norm": POSITIVE, "gain_min_db": Limits(-math.inf)}
        check(self, counts | shares | sizes | others)


@dataclass(frozen=True)
class CardText:
    """What the card says beyond figures."""

    task: str = "upscale"
    licence: str = ""
    origin: str = ""
    train_data: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; allowed: {', '.join(TASKS)}")


@dataclass(frozen=True)
class Config:
    """One training, complete: with the data it decides every bit of the result on one machine."""

    name: str
    seed: int = 1
    shape: Shape = field(default_factory=Shape)
    train: TrainPlan = field(default_factory=TrainPlan)
    pool: PoolSize = field(default_factory=PoolSize)
    scene: SceneMix = field(default_factory=SceneMix)
    degrade: DegradeMix = field(default_factory=DegradeMix)
    card: CardText = field(default_factory=CardText)

    def __post_init__(self) -> None:
        plan = self.train
        if (plan.judge_weight or plan.texture_weight or plan.flicker_weight) and not self.shape.vivid:
            raise ValueError(
                "judge_weight, texture_weight and flicker_weight are for vivid networks: set [shape] vivid = true"
            )
        if plan.flicker_weight and not self.pool.successive:
            raise ValueError("flicker_weight needs frames that follow each other: set [pool] successive = true")
        if self.pool.successive and plan.batch % 2:
            raise ValueError(f"batch is {plan.batch}; with [pool] successive = true it must be even")
        if self.pool.successive and self.scene.frames < 2:
            raise ValueError(
                f"[scene] frames is {self.scene.frames}; with [pool] successive = true it must be at least 2"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        crop, patch, scale = self.train.crop_px, self.pool.patch_px, self.shape.scale
        for where, side in (("[train] crop_px", crop), ("[pool] patch_px", patch)):
            if side % self.shape.unshuffle:
                raise ValueError(
                    f"{where} is {side}; it must be a multiple of [shape] unshuffle, {self.shape.unshuffle}"
                )
        if patch * scale <= 2 * SHAVE_PX:
            raise ValueError(
                f"[pool] patch_px is {patch}; validation leaves out {SHAVE_PX} px of each border: raise it"
            )
        if crop > patch:
            raise ValueError(f"[train] crop_px {crop} exceeds [pool] patch_px {patch}; lower it")
        if self.train.judge_weight and crop * scale % JUDGED_MULTIPLE:
            raise ValueError(
                f"[train] crop_px is {crop}; with judge_weight the target's side, {crop * scale}, must be a "
                f"multiple of {JUDGED_MULTIPLE}"
            )

    @property
    def recipe(self) -> Recipe:
        """What decides the patches."""
        return Recipe(self.shape.scale, self.seed, self.scene, self.degrade, self.pool)


SECTIONS: Mapping[str, type] = {
    "shape": Shape,
    "train": TrainPlan,
    "pool": PoolSize,
    "scene": SceneMix,
    "degrade": DegradeMix,
    "card": CardText,
}


def _value(given: object, default: object, where: str) -> object:
    """`given` as the type of `default`."""
    if isinstance(default, float) and isinstance(given, int) and not isinstance(given, bool):
        return float(given)
    if isinstance(default, tuple) and isinstance(given, list):
        return tuple(_value(item, default[0], where) for item in given)
    if type(given) is not type(default):
        expected = "a list" if isinstance(default, tuple) else type(default).__name__
        raise TrainingError(f"{where} is {given!r}; it must be {expected}")
    return given


def _section(cls: type[T], table: object, where: str) -> T:
    if not isinstance(table, dict):
        raise TrainingError(f"{where} is {table!r}; it must be a table")
    defaults = cls()
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # mypy has no type for "any dataclass"
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise TrainingError(f"{where} has unknown keys: {', '.join(unknown)}; known: {', '.join(known)}")
    values = {k: _value(v, getattr(defaults, k), f"{where} {k}") for k, v in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error


def parse_config(table: dict[str, Any], where: str) -> Config:
    """A configuration from a decoded TOML table; `where` names it in errors.

    Raises:
        TrainingError: unknown or missing keys, wrong types, values out of range.
    """
    known = ["name", "seed", *SECTIONS]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise TrainingError(f"{where} has unknown keys: {', '.join(unknown)}; known: {', '.join(known)}")
    if "name" not in table:
        raise TrainingError(f'{where} has no key "name"; add the name of the network')
    sections: dict[str, Any] = {
        key: _section(cls, table.get(key, {}), f"{where} [{key}]") for key, cls in SECTIONS.items()
    }
    name = str(_value(table["name"], "", f"{where} name"))
    seed = table.get("seed", 1)
    if type(seed) is not int or seed < 0:
        raise TrainingError(f"{where} seed is {seed!r}; it must be a whole number from 0")
    try:
        return Config(name=name, seed=seed, **sections)
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error


def load_config(path: Path) -> Config:
    """Read a configuration file; what it doesn't say is as in the file that its key `base` names, beside it.

    Raises:
        TrainingError: a file is missing, not TOML, or says something unknown.
    """
    return parse_config(_table(path), str(path))


def _table(path: Path, within: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"configuration {path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"configuration {path} is not TOML: {error}") from error
    base = table.pop("base", None)
    if base is None:
        return table
    beside = path.parent / str(base)
    if beside in within:
        raise TrainingError(f"configuration {path} is based on {base}, which is based on it; remove one of both")
    merged = _table(beside, (*within, path))
    for key, value in table.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merged[key] | value if both_tables else value
    return merged
