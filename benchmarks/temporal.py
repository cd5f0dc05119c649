"""`temporal`: what stabilising gains and costs, and how well scene cuts are found.

Every sequence is reduced by the model's scale, damaged, enhanced frame by frame, and stabilised in each mode; all are
compared with the clean sequence: PSNR-Y, SSIM-Y, difference error and warping error as `streamer compare --temporal`
has them. They belong together, because blur alone lowers the warping error. The fixed average of the last three frames,
0.6, 0.3 and 0.1, is what people do without a gate.

Keyframe pop: the mean change of the output at key frames over that at other frames, on pixels of the clean sequence
that stay within STILL_CODES (mean of 5 x 5 px).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from statistics import fmean, median
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks.cutset import Tally, events, judge
from benchmarks.errors import BenchmarkError
from benchmarks.machine import facts
from benchmarks.report import Report, table
from benchmarks.sequences import DAMAGES, Damage, Scene, clips, fitting, pans, received
from onnx_models.cards import load_card
from onnx_models.degrade import reduce_luma, to_codes
from onnx_models.scenes import find_files, read_photo
from streamer import EnhanceStage, Frame, StabiliseStage, VideoFormat
from streamer.compare import PsnrMeter, SsimMeter
from streamer.cuts import CutDetector
from streamer.errors import UsageError
from streamer.flicker import FlickerMeter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.sequences import Luma

STILL_CODES = 2.0
STILL_SHARE = 0.05
"""Of the pixels, at least, to measure a pop on them."""
SETTLING = 4
"""Frames at the beginning that are not judged."""
FIXED = (0.6, 0.3, 0.1)
_TIMED_FRAMES = 60


@dataclass(frozen=True, slots=True)
class Score:
    """One way to stabilise one damaged sequence. Errors as in `streamer.compare`; `pop` None without key frames."""

    sequence: str
    is_static: bool
    damage: str
    mode: str
    psnr_db: float
    ssim: float
    difference_error: float | None
    warping_error: float | None
    pop: float | None


def run(data: list[Path], model: str, frames: int, modes: list[str], damages: list[str]) -> Report:
    """Measures all clips, and all cameras over the photographs, below the folders.

    Raises UsageError for a damage that is none of DAMAGES, BenchmarkError if a clip is too short.
    """
    machine = facts()
    known = {damage.name: damage for damage in DAMAGES}
    for name in damages:
        if name not in known:
            raise UsageError(f"there is no damage {name!r}: use {', '.join(known)}")
    wanted = [known[name] for name in damages] or DAMAGES
    scores: list[Score] = []
    scenes = [*clips(data, frames), *pans(data, frames)]
    for scene in scenes:
        if len(scene.frames) <= SETTLING:
            count = len(scene.frames)
            raise BenchmarkError(f"{scene.name} has {count} frames, more than {SETTLING} are needed; remove it")
    for scene in scenes:
        for damage in wanted:
            scores += judge_scene(scene, damage, model, modes)
    cuts = cut_tallies(data)
    costs = {f"{mode} x{scale}": cost_ms(mode, scale) for mode in modes for scale in (1, 2)}
    findings = {
        "model": model,
        "frames": frames,
        "scores": [asdict(score) for score in scores],
        "cuts": {name: asdict(tally) for name, tally in cuts.items()},
        "cost_ms": costs,
    }
    return Report.of(findings, _text(scores, cuts, costs), machine)


def judge_scene(scene: Scene, damage: Damage, model: str, modes: Sequence[str]) -> list[Score]:
    """Scores of the frames as the network gives them ("off"), of their fixed average, and of every mode."""
    scale = load_card(model).scale
    scene = fitting(scene, scale)
    low, qp = received(scene.frames, scale, damage)
    enhanced = _enhanced(low, model, qp)
    ways = {"off": enhanced, "fixed": _averaged(enhanced)}
    ways |= {mode: _stabilised(enhanced, low, mode) for mode in modes}
    return [_score(scene, damage, mode, found) for mode, found in ways.items()]


def keyframe_pop(frames: Sequence[Luma], clean: Sequence[Luma], keyint: int) -> float | None:
    """See the module; None where nothing stays still, or there is no key frame after the first."""
    changes: dict[bool, list[float]] = {True: [], False: []}
    for t in range(SETTLING, len(frames)):
        still = cv2.blur(cv2.absdiff(clean[t], clean[t - 1]).astype(np.float32), (5, 5)) <= STILL_CODES
        if np.mean(still) >= STILL_SHARE:
            changes[t % keyint == 0].append(float(np.mean(cv2.absdiff(frames[t], frames[t - 1])[still])))
    if not changes[True] or not fmean(changes[False] or [0]):
        return None
    return fmean(changes[True]) / fmean(changes[False])


def cut_tallies(data: list[Path]) -> dict[str, Tally]:
    """What the detector makes of the synthesised set, by kind of event."""
    photos = [to_codes(reduce_luma(read_photo(path)[0], 4)) for path in find_files(data)[0]]
    tallies: dict[str, Tally] = defaultdict(lambda: Tally(0, 0, 0))
    for event in events(photos):
        tallies[event.name] += judge(event, CutDetector())
    return dict(tallies)


def cost_ms(mode: str, scale: int) -> float:
    """Median time of this thread for one 1280x720 luma frame of a noisy scene that moves by a pixel a frame."""
    rng = np.random.default_rng(1)
    height, width = 720 // scale, 1280 // scale
    light = 126 + 400 * cv2.GaussianBlur(rng.normal(0, 1, (height, width + 8)).astype(np.float32), (0, 0), 6)
    sources = [to_codes(light[:, x : x + width] + rng.normal(0, 4, (height, width))) for x in range(8)]
    pairs = [(np.repeat(np.repeat(source, scale, 0), scale, 1), source) for source in sources]
    format = VideoFormat(1280, 720, "gray")
    stage = StabiliseStage(mode)
    stage.open(format)
    spent = []
    for t in range(_TIMED_FRAMES):
        luma, source = pairs[t % 8]
        frame = _frame(t, luma, _frame(t, source))
        started = time.thread_time()
        list(stage.process(frame))
        spent.append(time.thread_time() - started)
    return round(1e3 * median(spent[SETTLING:]), 2)


def _frame(number: int, luma: Luma, source: Frame | None = None) -> Frame:
    """A gray frame at 25 Hz."""
    format = VideoFormat(luma.shape[1], luma.shape[0], "gray")
    return Frame((luma,), format, number, Fraction(1, 25), 1, number, 0, source=source)


def _enhanced(low: Sequence[Luma], model: str, qp: float | None) -> list[Luma]:
    height, width = low[0].shape
    format = VideoFormat(width, height, "gray")
    stage = EnhanceStage(load_card(model))
    stage.open(format)
    try:
        frames = [replace(_frame(t, luma), qp=qp) for t, luma in enumerate(low)]
        done = [*(found for frame in frames for found in stage.process(frame)), *stage.flush()]
    finally:
        stage.close()
    return [frame.planes[0] for frame in done]


def _stabilised(enhanced: Sequence[Luma], low: Sequence[Luma], mode: str) -> list[Luma]:
    height, width = enhanced[0].shape
    format = VideoFormat(width, height, "gray")
    stage = StabiliseStage(mode)
    stage.open(format)
    found = []
    for t, (luma, source) in enumerate(zip(enhanced, low, strict=True)):
        frame = _frame(t, luma, _frame(t, source))
        found += [done.planes[0] for done in stage.process(frame)]
    stage.close()
    return found


def _averaged(enhanced: Sequence[Luma]) -> list[Luma]:
    found = []
    for t in range(len(enhanced)):
        last = [enhanced[max(0, t - age)].astype(np.float32) for age in range(len(FIXED))]
        found.append(to_codes(np.sum([weight * luma for weight, luma in zip(FIXED, last, strict=True)], axis=0)))
    return found


def _score(scene: Scene, damage: Damage, mode: str, frames: Sequence[Luma]) -> Score:
    psnr, ssim, flicker = PsnrMeter(255.0), SsimMeter(255.0), FlickerMeter(255.0)
    for clean, luma in zip(scene.frames[SETTLING:], frames[SETTLING:], strict=True):
        for meter in (psnr, ssim, flicker):
            meter.add(clean.astype(np.float64), luma.astype(np.float64))
    pop = None if damage.crf is None else keyframe_pop(frames, scene.frames, damage.keyint)
    differs, warps = flicker.difference_error, flicker.warping_error
    return Score(scene.name, scene.is_static, damage.name, mode, psnr.mean, ssim.mean, differs, warps, pop)


def _text(scores: Sequence[Score], cuts: dict[str, Tally], costs: dict[str, float]) -> str:
    off = {(score.sequence, score.damage): score for score in scores if score.mode == "off"}
    rows = []
    for one in scores:
        base = off[one.sequence, one.damage]
        rows.append(
            (
                f"{one.sequence}{' (static)' if one.is_static else ''}",
                one.damage,
                one.mode,
                f"{one.psnr_db:.2f}",
                _gain(one.psnr_db, base.psnr_db),
                f"{one.ssim:.4f}",
                _percent(one.difference_error, base.difference_error),
                _percent(one.warping_error, base.warping_error),
                "" if one.pop is None else f"{one.pop:.1f}",
            )
        )
    head = ("sequence", "damage", "mode", "PSNR-Y dB", "gain", "SSIM-Y", "difference error", "warping error", "pop")
    total = sum(cuts.values(), Tally(0, 0, 0))
    said = [f"{name}: {t.found} found, {t.missed} missed, {t.imagined} imagined" for name, t in cuts.items()]
    return "\n".join(
        (
            table(head, rows),
            "",
            f"scene cuts: precision {total.precision:.3f}, recall {total.recall:.3f} ({'; '.join(said)})"
            if cuts
            else "scene cuts: not judged, because there are no photographs to make them of",
            "ms of one core for a 1280x720 luma frame: " + ", ".join(f"{name} {ms}" for name, ms in costs.items()),
        )
    )


def _gain(value: float, base: float) -> str:
    return "" if math.inf in (value, base) else f"{value - base:+.2f}"


def _percent(value: float | None, base: float | None) -> str:
    return f"{100 * (value / base - 1):+.0f} %" if value is not None and base else ""
