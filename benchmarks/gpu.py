"""`gpu`: how close a TensorRT engine comes to what the GPU's copies and its computation alone would allow.

Frames are 4:2:0, and their chroma is enlarged with the luma, as in a job. The same engine is timed three times with as
many of them in flight as it has slots: whole, without its inferences, and without its copies between host and device.
What is left are the two floors: copies in and out overlap with computation, so a perfect engine takes as long as the
slower of them. Once more it is whole with the stabiliser behind the network, as jobs have it. Then the whole job: a
clip decoded, enhanced, and thrown away or encoded. Rounds interleave the cases. Plans are built before anything is
timed.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import engines
import streamer
from benchmarks.cases import CRF, PRESET
from benchmarks.clip import DESCRIPTION, make_clip
from benchmarks.machine import facts
from benchmarks.networks import frame_ms
from benchmarks.report import Report, table
from engines import EngineError, EngineRequest, PlanCache, TensorRTEngine, TensorRTRTXEngine, for_bits
from engines.chroma import with_chroma
from engines.follower import with_follower
from engines.tensorrt import half_precision
from engines.tensorrt.slot import Slot
from onnx_models.cards import ModelCard, load_card
from streamer.fitting import Fitter
from streamer.frame import VideoFormat

SIZES = ((640, 360), (1280, 720), (1920, 1080))
_BACKENDS = {engine.name: engine for engine in (TensorRTEngine, TensorRTRTXEngine)}


class CopiesOnly(Slot):
    """Moves pictures in and out and computes nothing."""

    def _infer(self, stream: Any) -> None:
        pass


class InferenceOnly(Slot):
    """Computes on whatever lies in the device's memory."""

    def _upload(self, stream: Any) -> None:
        pass

    def _download_on(self, stream: Any) -> None:
        pass


STABILISED = "stabilised"
CASES: dict[str, type[Slot]] = {"whole": Slot, "copies": CopiesOnly, "inference": InferenceOnly, STABILISED: Slot}


def run(
    model: str,
    frames: int,
    repeat: int,
    *,
    engine: str = "auto",
    device: int = 0,
    sizes: tuple[tuple[int, int], ...] = SIZES,
) -> Report:
    """Times a shipped model at several input sizes, and the whole job. Raises EngineError where no GPU can do it."""
    row = gpu_engine(engine)
    machine = facts() | {"gpu": row.reason, "engine": f"{row.name} {row.version}"}
    card = load_card(model)
    for width, height in sizes:
        for case in ("whole", STABILISED):
            engines.build_engine(replace(_request(card, (width, height), case), engine=row.name, device=device))
    found = {
        f"{width}x{height}": _floors(card, (width, height), row.name, device, frames, repeat) for width, height in sizes
    }
    jobs = _jobs(card.name, row.name, device, frames)
    findings = {"model": model, "engine": row.name, "frames": frames, "rounds": repeat, "sizes": found, "jobs": jobs}
    return Report.of(findings, _text(findings, row), machine)


def gpu_engine(name: str) -> engines.EngineRow:
    """The TensorRT row with this name, or for "auto" the first that can run. Raises EngineError if there is none."""
    rows = [row for row in engines.available_engines() if row.name in _BACKENDS and name in ("auto", row.name)]
    usable = next((row for row in rows if row.usable), None)
    if usable is None:
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in rows) or f"there is no GPU engine {name!r}"
        raise EngineError(f"the benchmark needs an NVIDIA GPU, and none can be used here: {reasons}")
    return usable


def _floors(card: ModelCard, size: tuple[int, int], name: str, device: int, frames: int, repeat: int) -> dict[str, Any]:
    rounds = [{case: _case_ms(card, size, name, device, frames, case) for case in CASES} for _ in range(repeat)]
    ms = {case: median(one[case] for one in rounds) for case in CASES}
    shares = {case: median(one[case] / one["whole"] for one in rounds) for case in CASES if case != "whole"}
    return {"ms": ms, "share": shares, "rounds": rounds}


def _case_ms(card: ModelCard, size: tuple[int, int], name: str, device: int, frames: int, case: str) -> float:
    base, request, slot = _BACKENDS[name], _request(card, size, case), CASES[case]
    variant = cast("type[TensorRTEngine]", type(slot.__name__, (base,), {"slot_type": slot}))
    cache = PlanCache()
    model = half_precision(for_bits(card.path, request.bits), cache)
    if request.chroma is not None:
        model = with_chroma(model, request.chroma)
    if request.follower is not None:
        model = with_follower(model, request.follower)
    with variant(model, request.shapes(), device=device, cache=cache, title=card.path.name) as opened:
        return frame_ms(opened, frames)


def _request(card: ModelCard, size: tuple[int, int], case: str) -> EngineRequest:
    """What a job asks for whole frames of this size."""
    return Fitter(card, VideoFormat(*size, "yuv420p"), may_stabilise=case == STABILISED).gpu_request()


def _jobs(model: str, engine: str, device: int, frames: int) -> dict[str, float]:
    """Frames per second of the whole job, from the first frame delivered to the last."""
    with tempfile.TemporaryDirectory(prefix="streamer-gpu-") as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, frames)
        chosen: dict[str, Any] = {"model": model, "engine": engine, "device": device}
        nothing = streamer.enhance(clip, "null:", **chosen)
        coded = streamer.enhance(clip, Path(folder) / "out.mp4", codec="h264", crf=CRF, preset=PRESET, **chosen)
    return {"decoded and enhanced": nothing.fps, f"and encoded (x264 {PRESET} crf {CRF})": coded.fps}


def _text(found: dict[str, Any], row: engines.EngineRow) -> str:
    head = ("input", "ms a frame", "copies alone", "share", "inference alone", "share", "stabilised", "share")
    rows = []
    for size, one in found["sizes"].items():
        ms, share = one["ms"], one["share"]
        parts = [text for case in share for text in (f"{ms[case]:.3f}", f"{share[case]:.0%}")]
        rows.append((size, f"{ms['whole']:.3f}", *parts))
    jobs = [(name, f"{fps:.1f}") for name, fps in found["jobs"].items()]
    lines = (
        f"{found['model']} on {row.name} {row.version}: {row.reason}",
        f"{found['frames']} frames, medians of {found['rounds']} rounds",
        "",
        table(head, rows),
        "",
        f"whole job, clip: {DESCRIPTION}",
        table(("", "frames/s"), jobs),
    )
    return "\n".join(lines)
