"""Real builds: TensorRT for RTX parses and builds every shipped model on the CPU, for GPUs that nobody here has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from engines import EngineError, EngineOption, EngineRequest, for_bits
from engines.chroma import with_chroma
from engines.follower import with_follower
from engines.model import with_shapes
from engines.tensorrt import BuildSettings, Profile, half_precision, to_fp16
from engines.tensorrt.build import BuildError, build_plan
from engines.tensorrt.vendor import TENSORRT, TENSORRT_RTX, Journal, load_vendor
from onnx_models.cards import list_cards, load_card
from streamer.color import ChromaScaler
from streamer.fitting import Fitter
from streamer.frame import ColorSpec, PixelLayout, VideoFormat
from tests.pixel_models import tiny_model, tiny_proto, with_weights_by

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SHAPES = {"luma": (1, 1, 360, 640)}
MODELS = [card.path for card in list_cards()]


@pytest.fixture(name="rtx", scope="module")
def _rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="it is not installed: pip install tensorrt-rtx-cu13")


def build(rtx: Any, model: bytes, **settings: Any) -> bytes:
    journal = Journal()
    fixed = with_shapes(model, SHAPES)
    plan, _ = build_plan(rtx, journal, fixed.content, BuildSettings(**settings))
    assert not journal.problems
    return plan


@pytest.mark.parametrize("capability", ["8.6", "12.0"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_shipped_model_builds_in_float16(rtx: Any, path: Path, capability: str) -> None:
    model = half_precision(path.read_bytes())
    assert len(build(rtx, model, capability=capability)) > len(model)  # all weights are in it


@pytest.mark.parametrize("bits", [8, 10])
def test_float32_and_deeper_pixels_build(rtx: Any, bits: int) -> None:
    model = for_bits(tiny_model(conditioned=True), bits)
    assert build(rtx, model, capability="8.6")
    assert build(rtx, to_fp16(model), capability="8.6")


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_chroma_builds_for_one_size_and_for_a_range(rtx: Any, scale: int, bits: int) -> None:
    luma = half_precision(for_bits(load_card(f"upscale-x{scale}-nano").path, bits))
    filter = ChromaScaler(PixelLayout(bits, 3, 1, 1), ColorSpec(), scale).filter
    sizes = ((320, 180), (640, 360), (1281, 721))
    shapes = [EngineRequest(luma, *size, chroma=filter).shapes() for size in sizes]
    model = with_chroma(luma, filter)
    settings, journal = BuildSettings(capability="8.6"), Journal()
    assert build_plan(rtx, journal, with_shapes(model, shapes[1]).content, settings)[0]
    assert build_plan(rtx, journal, model, settings, profile=Profile(*shapes))[0]
    assert not journal.problems


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "gray"])
@pytest.mark.parametrize("name", ["upscale-x2-nano", "restore-x1-nano"])
def test_the_stabiliser_builds_behind_a_network(rtx: Any, name: str, pix_fmt: str) -> None:
    """What jobs give to TensorRT, for one size and for a range."""
    card = load_card(name)
    option = EngineOption("tensorrt-rtx", "f16", on_gpu=True, builds_plans=True, keeps_state=True)
    sizes = ((320, 180), (640, 360), (1281, 721))
    fitters = [Fitter(card, VideoFormat(*size, pix_fmt), may_stabilise=True) for size in sizes]
    requests = [fitter.fit(option).request for fitter in fitters]
    model = half_precision(card.path.read_bytes())
    if requests[0].chroma is not None:
        model = with_chroma(model, requests[0].chroma)
    assert requests[0].follower is not None
    model = with_follower(model, requests[0].follower)
    shapes = [request.shapes() for request in requests]
    settings, journal = BuildSettings(capability="8.6"), Journal()
    assert build_plan(rtx, journal, with_shapes(model, shapes[1]).content, settings)[0]
    assert build_plan(rtx, journal, model, settings, profile=Profile(*shapes))[0]
    assert not journal.problems


@pytest.mark.parametrize("operator", ["Constant", "Identity"])
def test_weights_from_a_node_build_in_float16(rtx: Any, operator: str) -> None:
    model = with_weights_by(operator, tiny_proto()).SerializeToString()
    assert build(rtx, half_precision(model), capability="8.6")


@pytest.mark.parametrize("islands", [1, ("phases",)])
def test_more_islands_build(rtx: Any, islands: int | tuple[str, ...]) -> None:
    assert build(rtx, half_precision(tiny_model(), islands=islands), capability="8.6")


def test_a_range_that_the_model_does_not_have_is_refused(rtx: Any) -> None:
    shapes = {"luma": (1, 1, 8, 8, 8)}
    with pytest.raises((BuildError, ValueError)):
        build_plan(rtx, Journal(), tiny_model(), BuildSettings(capability="8.6"), profile=Profile.fixed(shapes))


def test_float16_that_the_network_lost_is_noticed(rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.tensorrt.build._half_convolutions", lambda model: 1)
    with pytest.raises(BuildError, match="1 convolutions in float16, but TensorRT would run 0 so"):
        build(rtx, tiny_model(), capability="8.6")


def test_progress_goes_up_and_a_cancelled_build_raises_what_cancelled_it(rtx: Any) -> None:
    said: list[tuple[str, int, int]] = []

    def listen(phase: str, done: int, steps: int) -> None:
        said.append((phase, done, steps))

    def cancel(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    fixed = with_shapes(to_fp16(tiny_model()), SHAPES)
    settings = BuildSettings(capability="8.6")
    build_plan(rtx, Journal(), fixed.content, settings, progress=listen)
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1][1] == said[-1][2]
    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, Journal(), fixed.content, settings, progress=cancel)


def test_an_unsupported_operator_is_named(rtx: Any) -> None:
    from tests.test_engines import unsupported_model

    with pytest.raises(BuildError, match="Mystery"):
        build_plan(rtx, Journal(), unsupported_model(), BuildSettings())


def test_an_unknown_target_is_an_error(rtx: Any) -> None:
    with pytest.raises(EngineError, match=r"capability 1\.0: this TensorRT does not know it"):
        build(rtx, tiny_model(), capability="1.0")


def test_settings_are_taken(rtx: Any) -> None:
    assert build(rtx, tiny_model(), capability="8.6", level=0, workspace_bytes=1 << 24, aux_streams=0)


def test_the_library_is_found_by_its_row(rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_vendor(TENSORRT_RTX) is rtx
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", type(rtx)("tensorrt"))
    with pytest.raises(EngineError, match=r"no Builder, so it is only a stub.*pip uninstall tensorrt-stubs"):
        load_vendor(TENSORRT)
