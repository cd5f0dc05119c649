"""Chroma in the graph is chroma on the CPU: the same filter, siting, edges and rounding."""

from __future__ import annotations

import numpy as np
import pytest

from engines import ChromaFilter, EngineError, EngineRequest, available_engines, for_bits, open_engine
from engines.chroma import with_chroma
from streamer.color import ChromaScaler
from streamer.frame import ColorSpec, PixelLayout, Plane
from tests.pixel_models import tiny_model

HEIGHT, WIDTH = 46, 58
SITINGS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
SUBSAMPLINGS = {"4:2:0": (1, 1), "4:2:2": (1, 0), "4:4:4": (0, 0)}
ENGINES = [row.name for row in available_engines() if row.usable]
CASES = [
    (subsampling, siting, scale)
    for subsampling in SUBSAMPLINGS
    for siting in (SITINGS if subsampling == "4:2:0" else SITINGS[:2])
    for scale in (1, 2, 3, 4)
]
MOST_OFF, LARGEST_SHARE = 1, 0.001


def hard(shape: tuple[int, int], bits: int) -> tuple[Plane, Plane]:
    """Noise of every code, and edges between the extremes, where the filter overshoots."""
    dtype, peak = PixelLayout(bits, 3).dtype, (1 << bits) - 1
    y, x = np.indices(shape)
    noise = np.random.default_rng(bits).integers(0, peak, shape, dtype, endpoint=True)
    return noise, ((x // 3 + y // 5) % 2 * peak).astype(dtype)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(
    ("engine", "every"),
    [
        pytest.param("onnxruntime", 1),
        pytest.param("openvino", 7),
        pytest.param("openvino", 1, marks=pytest.mark.slow),  # it takes its time to compile
    ],
)
def test_it_equals_the_scaler(engine: str, every: int, bits: int) -> None:
    if engine not in ENGINES:
        pytest.skip(f"{engine} is not installed")
    for subsampling, siting, scale in CASES[::every]:
        layout = PixelLayout(bits, 3, *SUBSAMPLINGS[subsampling])
        scaler = ChromaScaler(layout, ColorSpec(chroma_location=siting), scale)
        request = EngineRequest(
            tiny_model(), WIDTH, HEIGHT, bits=bits, engine=engine, precision="f32", chroma=scaler.filter
        )
        planes = hard(scaler.filter.shape(HEIGHT, WIDTH), bits)
        with open_engine(request, slots=1) as opened:
            feeds = {"luma": np.zeros((1, 1, HEIGHT, WIDTH), layout.dtype), "strength": np.ones(1, np.float32)}
            feeds |= {name: plane[None, None] for name, plane in zip("uv", planes, strict=True)}
            found = opened.collect(opened.submit(feeds))
            for name, plane in zip("uv", planes, strict=True):
                wanted = np.empty((scale * plane.shape[0], scale * plane.shape[1]), plane.dtype)
                scaler.resample(plane, wanted)
                off = np.abs(found[f"{name}_enhanced"][0, 0].astype(np.float64) - wanted)
                assert off.max() <= MOST_OFF, (subsampling, siting, scale)
                assert (off > 0).mean() < LARGEST_SHARE, (subsampling, siting, scale)


def test_planes_beside_each_other_do_not_mix() -> None:
    scaler = ChromaScaler(PixelLayout(8, 3, 1, 1), ColorSpec(), 2)
    request = EngineRequest(tiny_model(), 16, 16, engine=ENGINES[0], precision="f32", chroma=scaler.filter)
    with open_engine(request) as engine:
        flat = {name: np.full((1, 1, 8, 8), code, np.uint8) for name, code in (("u", 3), ("v", 250))}
        luma, strength = np.zeros((1, 1, 16, 16), np.uint8), np.ones(1, np.float32)
        found = engine.collect(engine.submit({"luma": luma, "strength": strength, **flat}))
        assert (found["u_enhanced"] == 3).all()
        assert (found["v_enhanced"] == 250).all()


def test_what_cannot_have_chroma_is_told() -> None:
    filter = ChromaScaler(PixelLayout(8, 3, 1, 1), ColorSpec(), 2).filter
    once = with_chroma(for_bits(tiny_model(), 8), filter)
    with pytest.raises(
        EngineError, match=r"whose inputs are \['luma', 'strength', 'u', 'v'\]: it must take luma alone"
    ):
        with_chroma(once, filter)
    with pytest.raises(EngineError, match="cannot enlarge chroma by 2 rows and 1 columns: use one scale"):
        with_chroma(tiny_model(), ChromaFilter(1, 1, filter.rows, filter.columns[:1]))
