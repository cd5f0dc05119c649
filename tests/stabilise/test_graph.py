"""The ONNX graph of the stabiliser computes what the code for the CPU computes, on every engine of this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines import EngineError, EngineRequest, OnnxRuntimeEngine, OpenVINOEngine, open_engine
from engines.follower import PREFIX, follower_shapes, with_follower
from onnx_models.stabiliser import build_stabiliser
from streamer.frame import layout_of
from tests.pixel_models import tiny_model
from tests.stabilise.scenes import frames_of, noisy, popping, sourced, stabilised, textured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engines import Engine
    from streamer.frame import Frame
    from tests.stabilise.scenes import Luma

HEIGHT, WIDTH, FRAMES = 96, 128, 14
OUTPUTS = ("stabilised", "u_stabilised", "v_stabilised")


def enlarged(sources: Sequence[Luma], scale: int) -> list[Luma]:
    return [np.ascontiguousarray(source.repeat(scale, 0).repeat(scale, 1)) for source in sources]


def enhanced_frames(sources: Sequence[Luma], scale: int, pix_fmt: str) -> list[Frame]:
    """Frames with these sources, and with chroma of their own, which is noisy and pops, too."""
    lumas = enlarged(sources, scale)
    layout = layout_of(pix_fmt)
    assert layout is not None
    sizes = layout.shapes(WIDTH * scale, HEIGHT * scale)[1:]
    colours = [noisy(textured(*size, seed=seed), len(sources), 3.0) for seed, size in enumerate(sizes)]
    frames = []
    for number, (luma, source) in enumerate(zip(lumas, sources, strict=True)):
        (frame,) = frames_of([luma])
        format = replace(frame.format, pix_fmt=pix_fmt)
        planes = (luma, *(planes[number] for planes in colours))
        frames.append(sourced(replace(frame, planes=planes, format=format, index=number, pts=number), source))
    return frames


def scalars(number: int, **changed: float) -> dict[str, Any]:
    told = {"strength": 1.0, "elapsed": 1.0, "first": float(number == 0), "learn": 1.0} | changed
    return {name: np.array([value], np.float32) for name, value in told.items()}


def graph_outputs(kind: type[Any], scale: int, frames: Sequence[Frame]) -> Iterator[list[Luma]]:
    """Stabilised planes; the engine hands the state from one inference to the next."""
    layout = frames[0].format.layout
    chroma = (layout.log2_chroma_h, layout.log2_chroma_w) if layout.planes > 1 else None
    names = ("enhanced", *(("u", "v") if scale == 1 else ("u_enhanced", "v_enhanced")))[: layout.planes]
    planes = dict(zip(names, (plane.shape for plane in frames[0].planes), strict=True))
    model = build_stabiliser(scale, chroma).SerializeToString()
    state = {name.removeprefix(PREFIX): shape for name, shape in follower_shapes(model, HEIGHT, WIDTH).items()}
    shapes = state | {name: (1, 1, *shape) for name, shape in planes.items()} | {"luma": (1, 1, HEIGHT, WIDTH)}
    engine: Engine
    with kind(model, shapes, slots=2, threads=1) as engine:
        for number, frame in enumerate(frames):
            assert frame.source is not None
            given = {name: plane[None, None] for name, plane in zip(names, frame.planes, strict=True)}
            results = engine.collect(
                engine.submit({**scalars(number), **given, "luma": frame.source.planes[0][None, None]})
            )
            yield [results[name][0, 0].copy() for name in OUTPUTS[: layout.planes]]


@pytest.mark.parametrize(
    ("kind", "scale", "pix_fmt"),
    [
        (OnnxRuntimeEngine, 1, "yuv420p"),
        (OnnxRuntimeEngine, 2, "yuv420p"),
        pytest.param(OnnxRuntimeEngine, 3, "yuv422p", marks=pytest.mark.slow),
        pytest.param(OnnxRuntimeEngine, 2, "yuv444p", marks=pytest.mark.slow),
        (OpenVINOEngine, 1, "yuv420p"),
        pytest.param(OpenVINOEngine, 2, "yuv420p", marks=pytest.mark.slow),
        pytest.param(OpenVINOEngine, 1, "yuv440p", marks=pytest.mark.slow),
    ],
)
def test_graph_and_cpu_code_agree(kind: type[Any], scale: int, pix_fmt: str) -> None:
    if kind is OnnxRuntimeEngine:
        pytest.importorskip("onnxruntime")
    sources = popping(textured(HEIGHT, WIDTH), frames=FRAMES, pop_at=9, noise=0.7, moving=True)
    frames = enhanced_frames(sources, scale, pix_fmt)
    changed = np.zeros(frames[0].format.layout.planes, bool)
    for number, (ours, theirs) in enumerate(zip(stabilised(frames), graph_outputs(kind, scale, frames), strict=True)):
        for plane, (our, their) in enumerate(zip(ours.planes, theirs, strict=True)):
            changed[plane] |= bool((our != frames[number].planes[plane]).any())
            apart = np.abs(our.astype(int) - their)
            # Averages of two codes end in a half, and round either way; and a cell may lie so near to a threshold that
            # the order of additions decides.
            assert np.mean(apart > 1) < 0.01, (number, plane)
            assert apart.mean() < 0.2, (number, plane)
            assert abs(float(np.mean(our.astype(float) - their))) < 0.15, (number, plane)
    assert changed.all(), "every plane is stabilised"


@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=pytest.mark.slow), "onnxruntime"])
def test_merged_behind_a_network_it_computes_the_same(kind: str) -> None:
    pytest.importorskip(kind)
    sources = popping(textured(HEIGHT, WIDTH), frames=5, pop_at=4, noise=2.0, moving=True)
    half = {"strength": np.array([0.5], np.float32)}
    request = EngineRequest(tiny_model(), WIDTH, HEIGHT, engine=kind, precision="f32")
    with open_engine(request, slots=1) as engine:
        feeds: list[dict[str, Any]] = [{"luma": source[None, None]} | half for source in sources]
        enhanced = [engine.collect(engine.submit(feed))["enhanced"][0, 0].copy() for feed in feeds]
    frames = [sourced(frame, source) for frame, source in zip(frames_of(enhanced), sources, strict=True)]
    follower = build_stabiliser(2).SerializeToString()
    with open_engine(replace(request, follower=follower), slots=1) as engine:
        assert [spec.name for spec in engine.outputs] == ["stabilised"]
        type_of = {"onnxruntime": OnnxRuntimeEngine, "openvino": OpenVINOEngine}[kind]
        for number, (feed, (wanted,)) in enumerate(zip(feeds, graph_outputs(type_of, 2, frames), strict=True)):
            told = {PREFIX + name: value for name, value in scalars(number).items()}
            np.testing.assert_array_equal(engine.collect(engine.submit(feed | told))["stabilised"][0, 0], wanted)


def test_strength_nothing_is_exact_and_keeps_learning() -> None:
    pytest.importorskip("onnxruntime")
    sources = noisy(textured(HEIGHT, WIDTH), 3, 4.0)
    follower = build_stabiliser(2).SerializeToString()
    request = EngineRequest(tiny_model(), WIDTH, HEIGHT, engine="onnxruntime", precision="f32", follower=follower)
    one = np.ones(1, np.float32)
    with open_engine(request, slots=1) as engine, open_engine(replace(request, follower=None), slots=1) as plain:
        for number, source in enumerate(sources):
            feed: dict[str, Any] = {"luma": source[None, None], "strength": one}
            told = {PREFIX + name: value for name, value in scalars(number, strength=0.0).items()}
            found = engine.collect(engine.submit(feed | told))["stabilised"]
            np.testing.assert_array_equal(found, plain.collect(plain.submit(feed))["enhanced"])


def test_bad_sizes_and_scales_say_what_to_do() -> None:
    follower = build_stabiliser(1).SerializeToString()
    with pytest.raises(EngineError, match=r"picture of 128x100: height/8 must be a whole number; pad it"):
        EngineRequest(b"", WIDTH, 100, follower=follower).shapes()
    deep = EngineRequest(tiny_model(), WIDTH, HEIGHT, bits=10, engine="openvino", precision="f32", follower=follower)
    with pytest.raises(EngineError, match="behind a model for 10 bits: it is for 8"):
        open_engine(deep)
    with pytest.raises(ValueError, match="scale 0"):
        build_stabiliser(0)
    with pytest.raises(ValueError, match="use 0 or 1"):
        build_stabiliser(2, (2, 2))
    with pytest.raises(EngineError, match=r"it asks for \['u_enhanced', 'v_enhanced'\].*build it for this network"):
        with_follower(tiny_model(), build_stabiliser(2, (1, 1)).SerializeToString())
