"""The stabiliser behind a network on the device, in whole stages: that it does what the stage on the CPU does."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import streamer
from engines import FOLLOWER_PREFIX, EngineOption, TensorRTEngine, background
from engines.chroma import with_chroma
from engines.follower import with_follower
from engines.tensorrt import half_precision
from onnx_models.cards import ModelCard, load_card
from streamer import device_stabiliser, fitting, stabiliser
from streamer.enhancer import EnhanceStage
from streamer.fitting import Fitter
from streamer.frame import Frame, VideoFormat
from streamer.imported import import_model
from streamer.stabiliser import CUTS, OFF, StabiliseStage
from tests.clips import make_frame
from tests.foreign import Foreign
from tests.gpu import standin
from tests.gpu.children import Gate
from tests.stabilise.scenes import codes, noisy, textured
from tests.stabilise.test_job import clip as clip
from tests.stabilise.test_job import flicker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamer.network import Network
    from tests.gpu.device import SimulatedGpu

WIDTH, HEIGHT, FRAMES = 64, 48, 12
INVALID_VALUE, ILLEGAL_ADDRESS = 1, 700
CPU = "onnxruntime"
TENSORRT = EngineOption("tensorrt", "f32", on_gpu=True, builds_plans=True, keeps_state=True)


@pytest.fixture
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def scene(count: int = FRAMES, width: int = WIDTH, height: int = HEIGHT, seed: int = 3) -> list[Frame]:
    """A still scene with noise in all planes."""
    blank = make_frame(width=width, height=height)
    shapes = blank.format.layout.shapes(width, height)
    planes = [noisy(textured(*shape, seed=seed + n), count, 4.0, seed=n) for n, shape in enumerate(shapes)]
    return [replace(blank, planes=picture, index=n, pts=n) for n, picture in enumerate(zip(*planes, strict=True))]


def renumbered(frames: Sequence[Frame], first: int = 0) -> list[Frame]:
    return [replace(frame, index=n, pts=n) for n, frame in enumerate(frames, first)]


def eventful() -> list[Frame]:
    """A scene with repeated pictures and dropped ones, then another scene, then a discontinuity in that."""
    still, other = scene(), scene(seed=40)
    still[4] = replace(still[4], planes=still[3].planes)
    still[5] = replace(still[5], planes=still[3].planes)
    frames = renumbered(still[:8]) + renumbered(still[8:], 12) + renumbered(other, 17)
    frames[16] = replace(frames[16], discontinuity=True)
    return frames


class Chain:
    """An enhance stage and the stabiliser behind it, as a job has them."""

    def __init__(
        self, card: ModelCard, engine: str = "tensorrt", mode: str = "adaptive", *, at_once: bool = False
    ) -> None:
        self.stabiliser = StabiliseStage(mode)
        level, noise = (0.3, 0.1) if card.conditioned else (None, None)
        self.stage = EnhanceStage(
            card,
            engine=engine,
            precision="auto" if at_once else "f32",
            level=level,
            noise=noise,
            at_once=at_once,
            keeps_source=True,
            stabiliser=self.stabiliser,
        )
        self.on_device: list[int] = []
        """Numbers of the frames that the engine stabilised."""

    def run(self, frames: Sequence[Frame], before: Callable[[Frame], None] = lambda frame: None) -> list[Frame]:
        self.stabiliser.open(self.stage.open(frames[0].format))
        results = []
        for frame in frames:
            before(frame)
            results += self._behind(self.stage.process(frame))
        results += self._behind(self.stage.flush())
        self.stage.close()
        self.stabiliser.close()
        return results

    def _behind(self, frames: Any) -> list[Frame]:
        found: list[Frame] = []
        for frame in frames:
            if frame.stabilised:
                self.on_device.append(frame.index)
            found += self.stabiliser.process(frame)
        return found

    @property
    def cuts(self) -> int:
        return self.stage.counts.get(CUTS, 0) + self.stabiliser.counts.get(CUTS, 0)


def check(results: Sequence[Frame], wanted: Sequence[Frame]) -> None:
    """Averages of two codes end in a half, and round either way."""
    assert [frame.index for frame in results] == [frame.index for frame in wanted]
    for frame, other in zip(results, wanted, strict=True):
        for number, (plane, theirs) in enumerate(zip(frame.planes, other.planes, strict=True)):
            apart = np.abs(plane.astype(int) - theirs)
            assert np.mean(apart > 1) < 0.01, (frame.index, number, "is not what the CPU makes of it")
            assert apart.mean() < 0.25, (frame.index, number, "is not what the CPU makes of it")


def on_the_cpu(card: ModelCard, frames: Sequence[Frame]) -> list[Frame]:
    return Chain(card, CPU).run(frames)


# --- what comes out


@pytest.mark.parametrize("opset", [11, 17, 20])
def test_networks_of_others_are_stabilised_there_too(
    opset: int, simulated_gpu: SimulatedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    card = import_model(Foreign(opset=opset, block=2).save(tmp_path / "net.onnx")).card
    chain, frames = Chain(card), scene()
    check(chain.run(frames), on_the_cpu(card, frames))
    assert len(chain.on_device) == len(frames) - 1


@pytest.mark.parametrize("model", ["upscale-x2-nano", pytest.param("restore-x1-nano", marks=pytest.mark.slow)])
def test_the_device_does_what_the_cpu_does(simulated_gpu: SimulatedGpu, model: str) -> None:
    card, frames = load_card(model), eventful()
    chain, reference = Chain(card), Chain(card, CPU)
    results, wanted = chain.run(frames), reference.run(frames)
    check(results, wanted)
    begins = {frames[n].index for n in (0, 12, 16)}
    assert set(chain.on_device) == {frame.index for frame in frames} - begins
    assert not reference.on_device
    assert chain.cuts == reference.cuts == 1
    (plain,) = EnhancedAlone(card).run(frames[11:12])
    assert np.mean(np.abs(results[11].planes[0].astype(int) - plain.planes[0])) > 0.5, "history counts"


def adventures(pix_fmt: str, seed: int, count: int = 60) -> list[Frame]:
    """Noise, something that moves, cuts, pops, repeated and lost pictures, discontinuities, at random."""
    rng, blank, index = np.random.default_rng(seed), make_frame(pix_fmt, 96, 72), 0
    shapes = blank.format.layout.shapes(96, 72)
    light, error = [textured(*shape, seed=n) for n, shape in enumerate(shapes)], [np.zeros(shape) for shape in shapes]
    frames: list[Frame] = []
    for number in range(count):
        event = rng.choice(["cut", "anew", "pop", "again", "lost", ""], p=[0.05, 0.05, 0.05, 0.15, 0.15, 0.55])
        if event == "cut":
            light = [textured(*shape, seed=int(rng.integers(10**6))) for shape in shapes]
        if event == "pop":
            error = [rng.normal(0, 4, shape) for shape in shapes]
        planes = [old + new + rng.normal(0, 2, old.shape) for old, new in zip(light, error, strict=True)]
        for plane in planes:
            plane[10:20, number % 40 : number % 40 + 10] = 200
        found = frames[-1].planes if event == "again" and frames else tuple(codes(plane) for plane in planes)
        index += int(rng.integers(2, 6)) if event == "lost" else 1
        frames.append(replace(blank, planes=found, index=index, pts=index, discontinuity=event == "anew"))
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("model", "pix_fmt"),
    [
        ("upscale-x2-nano", "yuv420p"),
        ("restore-x1-nano", "yuv422p"),
        ("upscale-x3-nano", "yuv444p"),
        ("upscale-x2-nano", "gray"),
    ],
)
def test_whatever_happens_the_device_does_what_the_cpu_does(
    simulated_gpu: SimulatedGpu, model: str, pix_fmt: str, seed: int
) -> None:
    simulated_gpu.set_order(seed)
    frames, card = adventures(pix_fmt, seed), load_card(model)
    chain, reference = Chain(card), Chain(card, CPU)
    check(chain.run(frames), reference.run(frames))
    assert chain.cuts == reference.cuts
    assert len(chain.on_device) > len(frames) / 2


class EnhancedAlone(Chain):
    def __init__(self, card: ModelCard) -> None:
        super().__init__(card, CPU, OFF)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["upscale-x2-nano", "restore-x1-nano"])
def test_other_sizes_are_padded(simulated_gpu: SimulatedGpu, model: str) -> None:
    card, frames = load_card(model), scene(5, 61, 45)
    chain, block = Chain(card), 8 if card.scale == 1 else 4
    check(chain.run(frames), on_the_cpu(replace(card, multiple_of=block), frames))
    assert chain.on_device == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_stage_that_is_opened_again_begins_anew(card: ModelCard, simulated_gpu: SimulatedGpu) -> None:
    chain = Chain(card)
    for frames in (scene(5), scene(5, 96, 64), scene(5, seed=9)):
        chain.on_device.clear()
        check(chain.run(frames), on_the_cpu(card, frames))
        assert chain.on_device == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_first_that_is_not_sent_shows(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = device_stabiliser._told

    def never(*given: Any, **named: Any) -> dict[str, Any]:
        return real(*given, **named) | {device_stabiliser._FIRST: np.zeros(1, np.float32)}

    monkeypatch.setattr(device_stabiliser, "_told", never)
    frames = eventful()
    with pytest.raises(AssertionError, match="is not what the CPU makes of it"):
        check(Chain(card).run(frames), on_the_cpu(card, frames))


@pytest.mark.slow
def test_it_can_be_switched_while_it_runs(card: ModelCard, simulated_gpu: SimulatedGpu) -> None:
    frames, chain = scene(), Chain(card)

    def switch(frame: Frame) -> None:
        chain.stabiliser.mode = OFF if 3 <= frame.index <= 8 else "adaptive"
        chain.stabiliser.strength = 0.0 if frame.index == 11 else 1.0

    results, plain = chain.run(frames, switch), EnhancedAlone(card).run(frames)
    assert chain.on_device == [1, 2, 10, 11]
    for number in (3, 4, 5, 11):
        check(results[number : number + 1], plain[number : number + 1])
    for number in (2, 10):
        assert np.mean(np.abs(results[number].planes[0].astype(int) - plain[number].planes[0])) > 0.5


# --- what the device doesn't do


def test_only_whole_frames_of_8_bits_are_the_devices(card: ModelCard) -> None:
    def follower(pix_fmt: str = "yuv420p", option: EngineOption = TENSORRT, **settings: Any) -> bytes | None:
        format = VideoFormat(640, 360, pix_fmt)
        return Fitter(card, format, **{"may_stabilise": True} | settings).fit(option).request.follower

    assert follower() is not None
    assert follower("gray") not in (None, follower(), follower("yuv444p"))
    assert follower("yuv420p10le") is None
    assert follower(max_tile_px=100_000) is None
    assert follower(may_stabilise=False) is None
    assert follower(option=EngineOption(CPU, "f32", on_gpu=False, builds_plans=False)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "pix_fmt"), [("flow", "yuv420p"), ("adaptive", "yuv420p10le")])
def test_the_stage_does_the_rest(card: ModelCard, simulated_gpu: SimulatedGpu, mode: str, pix_fmt: str) -> None:
    frames = scene(3)
    if pix_fmt != "yuv420p":
        format = replace(frames[0].format, pix_fmt=pix_fmt)
        frames = [
            replace(frame, format=format, planes=tuple(plane.astype(np.uint16) * 4 for plane in frame.planes))
            for frame in frames
        ]
    chain, reference = Chain(card, mode=mode), Chain(card, CPU, mode)
    results = chain.run(frames)
    assert chain.on_device == []
    for frame, other in zip(results, reference.run(frames), strict=True):
        assert np.abs(frame.planes[0].astype(int) - other.planes[0]).max() <= 4


class EverySecond:
    """In the ladder's place; it tries the network whenever a frame is interpolated."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.counts: dict[str, int] = {}

    def choose(self, frame: Frame) -> Network | None:
        return self._network if frame.index % 2 == 0 or frame.index >= 8 else None

    def probe(self) -> Network:
        return self._network

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


def test_frames_of_which_every_second_one_is_interpolated_are_the_stages(
    card: ModelCard, simulated_gpu: SimulatedGpu
) -> None:
    frames, found = scene(), list[tuple[list[Frame], list[int]]]()
    for engine in ("tensorrt", CPU):
        chain = Chain(card, engine)
        chain.stage.ladder = EverySecond(chain.stage._main)  # type: ignore[assignment]
        found.append((chain.run(frames), chain.on_device))
    (results, on_device), (wanted, _) = found
    assert on_device == [9, 10, 11], "not before two frames in a row went through the network"
    check(results[:9], wanted[:9])


def test_a_damaged_frame_begins_anew(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, chain, frames = TensorRTEngine._collect, Chain(card), scene()
    collected: list[int] = []

    def spoil(self: TensorRTEngine, slot: int) -> None:
        real(self, slot)
        if self.is_open and chain.stage._in_flight is not None and self._flying:
            collected.append(slot)
            if len(collected) == 4:
                for plane in self._buffers[slot].outputs.values():
                    plane[...] = 0

    monkeypatch.setattr(TensorRTEngine, "_collect", spoil)
    results = chain.run(frames)
    assert chain.stage.counts == {"replaced frames": 1}
    assert 3 not in chain.on_device
    assert results[3].planes[0].any()
    assert set(range(1, FRAMES)) - set(chain.on_device) == {3, 6, 7}, "those that went in when it was seen"
    check(results[9:], on_the_cpu(card, [*frames[:7], replace(frames[7], discontinuity=True), *frames[8:]])[9:])


# --- engines that come and go


def test_an_engine_that_fails_hands_on_its_frames_and_no_history(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRTEngine, "_capture", lambda self: None)
    frames, chain = scene(), Chain(card)

    def fail(frame: Frame) -> None:
        if frame.index == 6:
            simulated_gpu.fail("cuMemcpyHtoDAsync", INVALID_VALUE)

    results = chain.run(frames, fail)
    assert (chain.stage.engine_name, chain.stage.counts) == ("tensorrt-rtx", {"engines failed": 1})
    (begins,) = set(range(1, FRAMES)) - set(chain.on_device)
    assert 3 <= begins <= 6, "the oldest that was under way"
    check(results, on_the_cpu(card, [replace(f, discontinuity=f.index == begins) for f in frames]))


@pytest.mark.slow
def test_what_a_lost_device_had_under_way_is_done_by_the_cpu(
    card: ModelCard, simulated_gpu: SimulatedGpu, capfd: pytest.CaptureFixture[str]
) -> None:
    frames, chain = scene(), Chain(card)

    def fail(frame: Frame) -> None:
        if frame.index == 6:
            simulated_gpu.fail("cuEventSynchronize", ILLEGAL_ADDRESS)

    results = chain.run(frames, fail)
    simulated_gpu.violations()
    simulated_gpu.reset()
    assert chain.stage.engine_name == "openvino"
    last = max(chain.on_device)
    assert chain.on_device == list(range(1, last + 1))
    check(results, on_the_cpu(card, [replace(f, discontinuity=f.index == last + 1) for f in frames]))


@pytest.mark.slow
def test_an_engine_that_takes_over_begins_anew(card: ModelCard, real_child: None, gate: Gate) -> None:
    frames, chain = scene(), Chain(card, "auto", at_once=True)

    def build(frame: Frame) -> None:
        if frame.index == 5:
            gate.end(chain.stage)

    results = chain.run(frames, build)
    assert (chain.stage.engine_name, chain.stage.counts) == ("tensorrt", {"engine swaps": 1})
    assert chain.on_device == [6, 7, 8, 9, 10, 11]
    check(results[:6], on_the_cpu(card, frames)[:6])
    check(results[7:], on_the_cpu(card, [replace(f, discontinuity=f.index == 5) for f in frames])[7:])


def test_without_memory_for_the_stabiliser_frames_are_still_whole(
    card: ModelCard, simulated_gpu: SimulatedGpu, caplog: pytest.LogCaptureFixture
) -> None:
    frames, chain = scene(4), Chain(card)
    simulated_gpu.reset(memory=2 * standin.SCRATCH_BYTES + 10 * WIDTH * HEIGHT)  # an eighth of the state, and a slot
    results = chain.run(frames)
    assert (chain.stage.engine_name, chain.on_device) == ("tensorrt", [])
    assert "it is tried without the stabiliser, which the CPU runs then" in caplog.text
    assert "tiles" not in caplog.text
    check(results, on_the_cpu(card, frames))


@pytest.mark.slow
def test_a_tensorrt_that_cannot_build_the_stabiliser_runs_the_network(
    card: ModelCard, simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = standin.OnnxParser.parse

    def refusing(self: standin.OnnxParser, model: bytes, path: str | None = None) -> bool:
        return FOLLOWER_PREFIX.encode() not in model and real(self, model, path)

    monkeypatch.setattr(standin.OnnxParser, "parse", refusing)
    frames, chain = scene(4), Chain(card)
    results = chain.run(frames)
    assert (chain.stage.engine_name, chain.on_device) == ("tensorrt", [])
    assert "TensorRT cannot read it" in caplog.text
    check(results, on_the_cpu(card, frames))


@pytest.mark.slow
def test_a_child_that_cannot_build_the_stabiliser_builds_the_network(
    card: ModelCard, simulated_gpu: SimulatedGpu, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, frames = Chain(card, "auto", at_once=True), scene()
    ends = f"open({str(gate.path)!r}, 'rb', 0).read(1); import sys; sys.exit('it will not')"
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", ends))
    built = []

    def build(frame: Frame) -> None:
        if frame.index in (2, 4):
            assert chain.stage._runner._building is not None
            built.append(chain.stage._runner._building.request.follower is not None)
            gate.end(chain.stage)

    chain.run(frames, build)
    assert built == [True, False]
    assert chain.stage.engine_name == "openvino"


@pytest.mark.slow
def test_a_job_stabilises_on_the_gpu(
    simulated_gpu: SimulatedGpu, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blended: list[int] = []
    real = stabiliser._History.blend

    def blend(self: stabiliser._History, frame: Frame, *given: Any) -> bool:
        blended.append(frame.index)
        return real(self, frame, *given)

    monkeypatch.setattr(stabiliser._History, "blend", blend)
    found = []
    for mode in ("auto", "off"):
        output = tmp_path / f"{mode}.mkv"
        streamer.enhance(clip, output, stabilise=mode, codec="ffv1", engine="tensorrt")
        found.append(flicker(output))
    assert found[0] < found[1] / 2
    assert blended == [0], "the CPU had the first frame only"


# --- what it costs


def test_a_frame_costs_no_memory_and_one_wait(card: ModelCard, simulated_gpu: SimulatedGpu) -> None:
    chain, frames = Chain(card), scene()
    chain.stage.open(frames[0].format)
    engine = chain.stage._runner.engine
    assert isinstance(engine, TensorRTEngine)
    simulated_gpu.clear_counts()
    results = [result for frame in frames for result in chain.stage.process(frame)] + list(chain.stage.flush())
    counts = {name: count / FRAMES for name, count in simulated_gpu.counts().items()}
    nbytes = engine.state_nbytes
    chain.stage.close()
    assert len(results) == FRAMES
    up, down = counts.pop("bytes up"), counts.pop("bytes down")
    assert counts == {
        "cuMemcpyHtoDAsync": 1,
        "cuGraphLaunch": 1,
        "cuMemcpyDtoHAsync": 1,
        "cuEventRecord": 3,
        "cuStreamWaitEvent": 2,
        "cuEventSynchronize": 1,
    }
    pixels, scalars = WIDTH * HEIGHT, 7
    assert pixels * 3 / 2 < up <= pixels * 3 / 2 + (scalars + 2) * 256
    assert down == 4 * pixels * 3 / 2
    history, cells = 4 * 4 * pixels * 3 // 2, 2 * 4 * (pixels // 16)
    assert nbytes == 2 * (history + 4 * pixels + cells + 2 * 4)


@pytest.mark.slow
def test_float16_stops_at_the_stabiliser() -> None:
    card, layout = load_card("upscale-x2-nano"), make_frame().format.layout
    request = Fitter(card, VideoFormat(WIDTH, HEIGHT, "yuv420p"), may_stabilise=True).fit(TENSORRT).request
    assert request.chroma is not None
    assert request.follower == fitting._stabiliser(card.scale, layout)
    merged = with_follower(with_chroma(half_precision(card.path.read_bytes()), request.chroma), request.follower)
    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(merged))
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    halves = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT16}
    assert halves
    assert not [name for name in halves if name.startswith(FOLLOWER_PREFIX)]
