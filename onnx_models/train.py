"""Training: one loop. Every step is a function of the seed and its number, so a resumed run sees
the same batches as one that was never interrupted.

Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(`torch.optim.Muon`); the kernels are its matrices, one row an output channel.
"""

from __future__ import annotations

import copy
import json
import math
import operator
import time
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnx_models.checkpoint import LOG, Checkpoint, load_checkpoint
from onnx_models.config import SHAVE_PX, load_config
from onnx_models.errors import TrainingError
from onnx_models.judge import Judge
from onnx_models.networks import LEVELS, Network
from onnx_models.pool import Patches, make_pool

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from onnx_models.config import Config, TrainPlan

CHECKPOINT = "checkpoint.pt"
SHEET = "samples.png"
SAMPLES = 6
MSE_MIN = 0.5
"""In 8-bit codes, 51 dB: untouched patches, which a same-size network has to leave alone, don't rule the mean."""
VALIDATION_PATCHES = 320
JUDGE_RAMP_STEPS = 1000
"""The judge's weight rises over these steps, while it learns what to look for."""
CONTRAST_MIN = 1 / 255
"""Of texture: less is none."""
FLICKER_MIN = 0.5 / 255
"""Added to what a share of flicker is taken of: less can't be seen."""
LEVEL_JITTER = 0.05
"""Standard deviation: in use the level of a stream is an estimate."""


def rate_factor(plan: TrainPlan, step: int) -> float:
    """Learning rate relative to its base: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    start = plan.steps * (1 - plan.decay_share)
    fallen = max(0.0, (step - start) / max(1.0, plan.steps - start))
    return warm * (1 - fallen * (1 - plan.final_rate))


def make_optimisers(network: Network, plan: TrainPlan) -> list[torch.optim.Optimizer]:
    """Optimisers whose groups carry their base rate as `base`."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimisers: list[torch.optim.Optimizer] = []
    if plan.optimiser == "muon":
        muon = torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.0, momentum=0.95)
        optimisers.append(muon)
    else:
        others += matrices
    adam = torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.0)
    optimisers.append(adam)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["base"] = group["lr"]
    return optimisers


def make_batch(patches: Patches, config: Config, step: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random crops, flipped and transposed: float32 `[B,1,c,c]` and `[B,1,s*c,s*c]`, 0..1; levels `[B,2]`.

    Also how vivid each picture is to become, 0..1 `[B]`, with a sixth of them at either end. Patches that come in twos
    stay together, and are told the same.
    """
    plan, scale = config.train, config.shape.scale
    rng = np.random.default_rng([config.seed, step])
    side, run = plan.crop_px, 2 if config.pool.successive else 1
    lows = np.empty((plan.batch, 1, side, side), np.uint8)
    highs = np.empty((plan.batch, 1, side * scale, side * scale), np.uint8)
    levels = np.empty((plan.batch, LEVELS), np.float32)
    for begin in range(0, plan.batch, run):
        index = run * int(rng.integers(len(patches) // run))
        y, x = rng.integers(config.pool.patch_px - side + 1, size=2)
        vertical, horizontal, transpose = rng.integers(2, size=3)
        step_y, step_x = 1 - 2 * int(vertical), 1 - 2 * int(horizontal)
        for k in range(run):
            low, high, levels[begin + k] = patches.sample(index + k)
            low = low[y : y + side, x : x + side][::step_y, ::step_x]
            high = high[y * scale : (y + side) * scale, x * scale : (x + side) * scale][::step_y, ::step_x]
            lows[begin + k, 0], highs[begin + k, 0] = (low.T, high.T) if transpose else (low, high)
    low_codes, high_codes = (torch.from_numpy(codes).to(device) for codes in (lows, highs))
    count = plan.batch // run
    levels += rng.normal(0, LEVEL_JITTER, (count, LEVELS)).astype(np.float32).repeat(run, axis=0)
    vividness = rng.uniform(-0.25, 1.25, count).clip(0, 1).astype(np.float32).repeat(run)
    told, vivid = (torch.from_numpy(values).to(device) for values in (levels.clip(0, 1), vividness))
    return low_codes.float() / 255, high_codes.float() / 255, told, vivid


def _psnr(out: Tensor, target: Tensor) -> Tensor:
    """PSNR of each picture of a batch after rounding to 8 bits, borders shaved."""
    error = (out * 255).round().clamp(0, 255) - target
    inner = error[..., SHAVE_PX:-SHAVE_PX, SHAVE_PX:-SHAVE_PX]
    mse = inner.square().mean(dim=(1, 2, 3)).clamp_min(MSE_MIN)
    return 10 * torch.log10(255**2 / mse)


@torch.no_grad()
def validate(network: Network, patches: Patches, device: str) -> tuple[float, float, list[float]]:
    """Mean PSNR in dB over validation patches: (network, interpolation), and the largest inputs of the convolutions."""
    network.eval()
    peaks: list[float] = []
    step = max(1, len(patches) // VALIDATION_PATCHES)
    totals, count = [0.0, 0.0], 0
    for index in range(0, len(patches), step):
        *pair, levels = patches.sample(index)
        low, target = (torch.from_numpy(np.array(p, np.float32)[None, None]).to(device) for p in pair)
        x = low / 255
        condition = torch.from_numpy(levels[None].copy()).to(device)
        found = network.peaks(x, condition)
        peaks = [max(pair) for pair in zip(peaks or found, found, strict=True)]
        totals[0] += float(_psnr(network(x, levels=condition), target).sum())
        totals[1] += float(_psnr(network.interpolate(x), target).sum())
        count += 1
    return totals[0] / count, totals[1] / count, peaks


@torch.no_grad()
def sample_sheet(network: Network, patches: Patches, device: str, count: int = SAMPLES) -> NDArray[np.uint8]:
    """Validation patches as a picture: a row each of interpolation, network, target; from clean to degraded."""
    network.eval()
    spread = sorted(
        range(0, len(patches), max(1, len(patches) // 100)), key=lambda index: patches.sample(index)[2].max()
    )
    rows = []
    for index in spread[:: max(1, len(spread) // count)][:count]:
        low, high, levels = patches.sample(index)
        x = torch.from_numpy(low[None, None].astype(np.float32) / 255).to(device)
        shown = [network.interpolate(x), network(x, levels=torch.from_numpy(levels[None].copy()).to(device))]
        codes = [(y[0, 0] * 255).round().clamp(0, 255).byte().cpu().numpy() for y in shown]
        rows.append(np.hstack([*codes, high]))
    return np.vstack(rows)


LOSS_UNIT = 0.02
"""Typical l1 error; keeps the losses of one magnitude."""


def loss_of(kind: str, out: Tensor, target: Tensor, interpolated: Tensor) -> Tensor:
    """Mean loss over a batch; `TrainPlan.loss` says what the kinds are.

    The relative kinds count a soft clean picture as much as a busy one, as a mean of PSNR does.
    """
    if kind == "l1":
        return functional.l1_loss(out, target)
    if kind == "mse":
        return functional.mse_loss(out, target) / LOSS_UNIT
    if kind == "relative":
        own = (interpolated - target).abs().mean(dim=(1, 2, 3)).detach() + 0.1 * LOSS_UNIT
        return LOSS_UNIT * ((out - target).abs().mean(dim=(1, 2, 3)) / own).mean()
    if kind == "balanced_mse":
        own = (interpolated - target).square().mean(dim=(1, 2, 3)).detach().sqrt() + 0.1 * LOSS_UNIT
        return ((out - target).square().mean(dim=(1, 2, 3)) / own).mean()
    if kind == "relative_mse":
        own = (interpolated - target).square().mean(dim=(1, 2, 3)).detach() + (0.1 * LOSS_UNIT) ** 2
        return LOSS_UNIT * ((out - target).square().mean(dim=(1, 2, 3)) / own).mean()
    square = (out - target).square().mean(dim=(1, 2, 3)) + 1e-6
    return LOSS_UNIT * square.log().mean() / 2


def harm_loss(out: Tensor, target: Tensor, interpolated: Tensor) -> Tensor:
    """Mean of what patches lost against their interpolation, in the unit of balanced_mse; 0 where all gained."""
    before, after = ((x - target).square().mean(dim=(1, 2, 3)) for x in (interpolated, out))
    return (functional.relu(after - before) / (before.detach().sqrt() + 0.1 * LOSS_UNIT)).mean()


def texture_loss(out: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean l1 between the local contrasts of fine detail, each picture counted by its weight `[N]`.

    Contrast is the standard deviation, in squares of 7 pixels, of what a mean over 5 pixels leaves. It says how much
    detail there is and nothing of where, which the other losses know.
    """

    def contrast(x: Tensor) -> Tensor:
        detail = x - functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        return (functional.avg_pool2d(detail.square(), 7, stride=2) + CONTRAST_MIN**2).sqrt()

    return (weights * (contrast(out) - contrast(target)).abs().mean(dim=(1, 2, 3))).mean()


def flicker_loss(out: Tensor, target: Tensor, interpolated: Tensor, weights: Tensor) -> Tensor:
    """By which share the output flickers more than the interpolation; each picture counted by its weight `[N]`.

    Flicker is the l1 between the changes from the first to the second frame of each two and of the target, as a mean
    over squares of 7 pixels. 0 where it is no more than the interpolation's: what networks gain there may be spent.
    It is a share because what flickers a little, a wall or a sky, is where eyes see it.
    """

    def flicker(frames: Tensor) -> Tensor:
        change = (frames[1::2] - frames[::2]) - (target[1::2] - target[::2])
        return functional.avg_pool2d(change.abs(), 7, stride=2)

    least = flicker(interpolated)
    more = functional.relu(flicker(out) - least) / (least + FLICKER_MIN)
    return (weights[::2] * more.mean(dim=(1, 2, 3))).mean()


@dataclass(frozen=True)
class Place:
    """Where and how a training runs; nothing here changes what is learnt."""

    device: str = "cpu"
    """What torch takes: "cpu", "cuda", ..."""
    jobs: int = 1
    """Processes that generate the pool; with more than one, a script needs its `if __name__ == "__main__"`."""
    pool_dir: Path | None = None
    """Where the pool lies, to share one between trainings; default: the training's folder."""
    threads: int | None = None
    """Of torch on the CPU; default: torch decides."""
    compile: bool = False
    """Let torch compile the network first: half a minute, then up to 1.6 times the speed."""

    def __post_init__(self) -> None:
        for name, count in (("threads", self.threads), ("jobs", self.jobs)):
            if count is not None and count < 1:
                raise TrainingError(f"{name} is {count}; must be at least 1")

    def check_device(self) -> None:
        """Compute something there. Raises TrainingError if that fails."""
        try:
            (torch.ones(1, device=self.device) + 1).item()
        except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without it
            raise TrainingError(f"device {self.device} cannot be used: {error}") from error


HERE = Place()


class Trainer:
    """One training in one folder: pool, checkpoint and log lie there.

    Args:
        config: what to train.
        data: folders of photographs and clips.
        out: where everything goes; a checkpoint found there is continued.
        start_from: a checkpoint whose averaged weights are the beginning of a new training, as far as they fit.
        place: where and how it runs.

    Raises:
        TrainingError: data, configuration or checkpoint cannot serve, or training fails to learn.
    """

    def __init__(
        self,
        config: Config,
        data: Sequence[Path],
        out: Path,
        start_from: Path | None = None,
        place: Place = HERE,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        _end_torn_line(out / LOG)
        if place.threads:
            torch.set_num_threads(place.threads)
        place.check_device()
        self.config, self.out, self.device = config, out, place.device
        torch.manual_seed(config.seed)
        self.network = Network(config.shape).to(place.device)
        self.ema = copy.deepcopy(self.network)
        self.residual: Callable[[Tensor, Tensor, Tensor], Tensor] = self.network.residual
        if place.compile:
            self.residual = torch.compile(self.network.residual, dynamic=False)
        self.optimisers = make_optimisers(self.network, config.train)
        judged, rough = config.train.judge_weight > 0, config.train.precision == "bf16"
        self.judge = Judge(place.device, rough=rough) if judged else None
        self._judged: list[float] = []
        self.step, self.minutes = 0, 0.0
        self.peaks: list[float] = []
        if (out / CHECKPOINT).exists():
            self._resume(load_checkpoint(out / CHECKPOINT))
        elif start_from is not None:
            begun = load_checkpoint(start_from)
            for network in (self.network, self.ema):
                if not network.adopt(begun.config.shape, begun.ema):
                    raise TrainingError(f"no layer of {start_from} fits {config.shape}; start from another checkpoint")
        # Last, because it can take hours.
        self.patches, self.held_out = make_pool(config.recipe, data, place.pool_dir or out, place.jobs)

    def _resume(self, saved: Checkpoint) -> None:
        for what in ("shape", "train.optimiser"):
            found, wanted = (operator.attrgetter(what)(config) for config in (saved.config, self.config))
            if found != wanted:
                raise TrainingError(
                    f"{self.out / CHECKPOINT} was trained with {what} {found}, the configuration asks for {wanted}; "
                    "give another --out"
                )
        self.network.load_state_dict(saved.network)
        self.ema.load_state_dict(saved.ema)
        for optimiser, state in zip(self.optimisers, saved.optimisers, strict=True):
            base = [group["base"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["base"] = rate
        if self.judge is not None and saved.judge is not None:
            self.judge.load(saved.judge)
        self.step, self.minutes, self.peaks = saved.step, saved.minutes, saved.peaks

    def _save(self) -> None:
        states = [optimiser.state_dict() for optimiser in self.optimisers]
        network, ema = self.network.state_dict(), self.ema.state_dict()
        judge = self.judge.state() if self.judge is not None else None
        saved = Checkpoint(self.config, self.step, self.minutes, network, ema, states, self.peaks, judge)
        saved.save(self.out / CHECKPOINT)

    def _log(self, **entry: object) -> None:
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step, **entry}) + "\n")

    def _update(self) -> float:
        """One optimisation step; returns the loss."""
        plan = self.config.train
        low, high, levels, vividness = make_batch(self.patches, self.config, self.step, self.device)
        interpolated = self.network.interpolate(low)
        rough = plan.precision == "bf16" and self.step < plan.steps * (1 - plan.precise_share)
        with torch.autocast(self.device, torch.bfloat16, enabled=rough):
            residual = self.residual(low, levels, vividness)
        out = interpolated + residual.float()
        loss = loss_of(plan.loss, out, high, interpolated)
        if plan.harm_weight:
            loss = loss + plan.harm_weight * self.step / plan.steps * harm_loss(out, high, interpolated)
        if plan.texture_weight:
            loss = loss + plan.texture_weight * texture_loss(out, high, vividness)
        if plan.flicker_weight:
            loss = loss + plan.flicker_weight * flicker_loss(out, high, interpolated, vividness)
        if self.judge is not None:
            weight = plan.judge_weight * min(1.0, self.step / JUDGE_RAMP_STEPS)
            loss = loss + weight * self.judge.displeasure(out, interpolated, vividness)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), plan.clip_norm)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * rate_factor(plan, self.step)
            optimiser.step()
        if self.judge is not None:
            self._judged.append(self.judge.learn(out, high, interpolated, vividness))
        keep = min(plan.ema, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            averaged: list[Tensor] = list(self.ema.parameters())
            current: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averaged, current, 1 - keep)
        self.step += 1
        return loss.item()

    def _validate(self) -> None:
        """Log validation, draw samples and save; stop a training that does not learn."""
        psnr, interpolation, self.peaks = validate(self.ema, self.held_out, self.device)
        gain = psnr - interpolation
        self._log(
            validation_db=round(psnr, 4),
            interpolation_db=round(interpolation, 4),
            gain_db=round(gain, 4),
            minutes=round(self.minutes, 2),
        )
        plan = self.config.train
        if self.step >= plan.assert_after and not gain > plan.gain_min_db:
            raise TrainingError(
                f"after {self.step} steps validation is {psnr:.2f} dB, the interpolation "
                f"{interpolation:.2f} dB: the network has not learnt to help. Lower the rates or "
                "check the data"
            )
        cv2.imwrite(str(self.out / SHEET), sample_sheet(self.ema, self.held_out, self.device))
        self._save()

    def run(self) -> Path:
        """Train to the last step; returns the checkpoint's path."""
        plan = self.config.train
        started, total, count = time.monotonic_ns(), 0.0, 0
        while self.step < plan.steps:
            loss = self._update()
            total, count = total + loss, count + 1
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {self.step}; lower the rates")
            if self.step % plan.log_every == 0 or self.step == plan.steps:
                now = time.monotonic_ns()
                self.minutes += (now - started) / 60e9
                speed = count * plan.batch * 1e9 / (now - started)
                own = {"judge": round(fmean(self._judged), 4)} if self._judged else {}
                self._judged.clear()
                self._log(loss=round(total / count, 6), **own, patches_per_s=round(speed, 1))
                started, total, count = now, 0.0, 0
            if self.step % plan.validate_every == 0 or self.step == plan.steps:
                self._validate()
                started = time.monotonic_ns() if count == 0 else started
        return self.out / CHECKPOINT


def _end_torn_line(log: Path) -> None:
    """Remove what a killed training left of a line, so that the next one begins a line."""
    content = log.read_bytes() if log.exists() else b""
    if content and not content.endswith(b"\n"):
        with log.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def command(args: argparse.Namespace) -> str:
    """`train`: returns the checkpoint's path."""
    place = Place(args.device, args.jobs, args.pool, args.threads, args.compile)
    trainer = Trainer(load_config(args.config), args.data, args.out, args.start_from, place)
    return str(trainer.run())
