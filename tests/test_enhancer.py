"""The enhance stage: what it computes, in what order, in tiles, at strengths, with buffers that go round."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import engines
import streamer
from onnx_models.cards import ModelCard, load_card
from streamer.enhancer import EnhanceStage
from streamer.errors import EnhanceError, StreamerError, UsageError
from streamer.frame import Frame, VideoFormat
from streamer.pool import PlanePool
from streamer.tiling import plan_tiles
from tests.clips import make_frame

ENGINES = [row.name for row in engines.available_engines() if row.usable]


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_card("upscale-x2-nano")


def told(card: ModelCard, engine: str = "auto", max_tile_px: int = 1 << 20) -> EnhanceStage:
    """A stage that is told the levels, so that what it makes of a frame doesn't depend on those before."""
    return EnhanceStage(card, engine=engine, max_tile_px=max_tile_px, level=0.3, noise=0.1)


def run(stage: EnhanceStage, frames: list[Frame]) -> list[Frame]:
    stage.open(frames[0].format)
    try:
        return [result for frame in frames for result in stage.process(frame)] + list(stage.flush())
    finally:
        stage.close()


def noise(width: int, height: int, pix_fmt: str = "yuv420p", number: int = 0) -> Frame:
    frame = make_frame(pix_fmt, width, height)
    rng = np.random.default_rng(number)
    layout = frame.format.layout
    planes = tuple(rng.integers(0, 1 << layout.bits, plane.shape).astype(layout.dtype) for plane in frame.planes)
    return replace(frame, planes=planes, index=number, pts=number)


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_come_out_in_order_and_each_is_its_own(card: ModelCard, engine: str) -> None:
    frames = [noise(48, 32, number=number) for number in range(7)]
    together = run(told(card, engine), frames)
    assert [frame.index for frame in together] == list(range(7))
    for frame, result in zip(frames, together, strict=True):
        (alone,) = run(told(card, engine), [frame])
        assert all(np.array_equal(a, b) for a, b in zip(alone.planes, result.planes, strict=True))
        assert not any(plane.flags.writeable for plane in result.planes)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(97, 61), (160, 90)])
@pytest.mark.parametrize("engine", ENGINES)
def test_tiles_leave_no_seam(card: ModelCard, engine: str, size: tuple[int, int], pix_fmt: str) -> None:
    frame = noise(*size, pix_fmt)
    (whole,) = run(told(card, engine), [frame])
    (tiled,) = run(told(card, engine, 2500), [frame])
    difference = np.abs(whole.planes[0].astype(int) - tiled.planes[0])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001  # rounding of sums in another order


def test_tiles_with_a_halo_too_small_would_show(card: ModelCard) -> None:
    frame = noise(160, 90)
    (whole,) = run(told(card), [frame])
    (tiled,) = run(told(replace(card, halo_px=0), max_tile_px=2500), [frame])
    assert np.abs(whole.planes[0].astype(int) - tiled.planes[0]).max() > 1


@pytest.mark.parametrize("multiple_of", [1, 2, 4, 8])
@pytest.mark.parametrize("max_px", [900, 2500, 10**6])
@pytest.mark.parametrize("size", [(33, 200), (101, 67), (64, 64), (7, 5)])
def test_plans_cover_every_pixel_once_with_its_halo(size: tuple[int, int], max_px: int, multiple_of: int) -> None:
    width, height, halo = *size, 6
    plan = plan_tiles(width, height, halo=halo, multiple_of=multiple_of, max_px=max_px)
    kept = np.zeros((height, width), int)
    for tile in plan.tiles:
        for span, length, size_px in ((tile.rows, height, plan.tile_height), (tile.columns, width, plan.tile_width)):
            assert span.start % multiple_of == 0
            assert span.start <= max(0, span.keep_start - halo)
            assert span.stop >= min(length, span.keep_stop + halo)
            assert span.stop - span.start <= size_px
        kept[tile.rows.keep_start : tile.rows.keep_stop, tile.columns.keep_start : tile.columns.keep_stop] += 1
        assert plan.cut(np.zeros((height, width), np.uint8), tile).shape == (plan.tile_height, plan.tile_width)
    assert (kept == 1).all()
    assert plan.tile_width % multiple_of == plan.tile_height % multiple_of == 0
    if len(plan.tiles) > 1:
        assert plan.tile_width * plan.tile_height <= max_px


def test_strength_blends_from_interpolation_to_network(card: ModelCard) -> None:
    frame = make_frame(width=64, height=48)
    results = [run(EnhanceStage(card, strength=strength), [frame])[0].planes[0] for strength in (0.0, 0.5, 1.0)]
    nothing, half, full = (result.astype(float) for result in results)
    assert np.abs(half - (nothing + full) / 2).max() <= 1
    assert not np.array_equal(nothing, full)


def test_ten_bits_agree_with_eight(card: ModelCard) -> None:
    eight = make_frame("yuv444p", 64, 48)
    deep_format = replace(eight.format, pix_fmt="yuv444p10le")
    deep = replace(eight, planes=tuple(plane.astype(np.uint16) * 4 for plane in eight.planes), format=deep_format)
    (a,), (b,) = run(told(card), [eight]), run(told(card), [deep])
    # Luma is rounded once; chroma twice, after each pass of its filter.
    for shallow, fine, bound in zip(a.planes, b.planes, (0.76, 1.3, 1.3), strict=True):
        assert fine.dtype == np.uint16
        assert np.abs(fine / 4 - shallow).max() <= bound


def test_picture_memory_goes_round(card: ModelCard) -> None:
    stage = EnhanceStage(card)
    frame = make_frame(width=64, height=48)
    stage.open(frame.format)
    for _ in range(20):
        for result in stage.process(frame):
            del result
    list(stage.flush())
    stage.close()
    assert stage.planes_allocated <= 4


def test_a_plane_kept_by_somebody_is_not_reused() -> None:
    pool = PlanePool()
    layout = make_frame().format.layout
    (kept, *rest) = pool.planes(layout, 32, 24)
    kept[...] = 7
    corner = kept[:2, :2]
    del kept, rest
    gc.collect()
    other = pool.planes(layout, 32, 24)
    other[0][...] = 9
    assert (corner == 7).all()
    assert pool.allocated == 2
    del corner
    gc.collect()
    pool.planes(layout, 32, 24)
    assert pool.allocated == 2


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan"), float("inf")])
def test_strengths_out_of_range_are_refused(card: ModelCard, strength: float) -> None:
    with pytest.raises(UsageError, match=r"0 \(interpolation\) to 1.5"):
        EnhanceStage(card, strength=strength)


def test_a_result_beyond_the_limit_is_refused(card: ModelCard) -> None:
    with pytest.raises(EnhanceError, match="the limit is 32768 pixels a side"):
        EnhanceStage(card).open(VideoFormat(20000, 100, "yuv420p"))


def test_images_as_arrays() -> None:
    y, x = np.mgrid[:40, :60]
    rgb = np.stack([x * 4, y * 6, 255 - x * 3], axis=-1).astype(np.uint8)
    larger = streamer.enhance_image(rgb)
    assert larger.shape == (80, 120, 3)
    assert larger.dtype == np.uint8
    assert np.abs(larger[::2, ::2].astype(int) - rgb)[4:-4, 4:-4].max() <= 6
    gray = streamer.enhance_image(rgb[..., 0])
    assert gray.shape == (80, 120)
    assert [picture.flags.writeable for picture in (larger, gray)] == [True, True]
    with streamer.ImageEnhancer() as enhancer:
        assert enhancer.enhance(rgb).shape == (80, 120, 3)
        assert enhancer.enhance(rgb[:20]).shape == (40, 120, 3)
        with pytest.raises(UsageError, match="uint8 RGB"):
            enhancer.enhance(rgb.astype(np.float32))


def test_a_refused_picture_does_no_harm_to_the_next() -> None:
    picture = np.full((40, 50), 90, np.uint8)
    with streamer.ImageEnhancer() as enhancer:
        before = enhancer.enhance(picture)
        with pytest.raises(StreamerError):
            enhancer.enhance(np.zeros((4, 20_000), np.uint8))
        np.testing.assert_array_equal(enhancer.enhance(picture), before)


def test_a_changed_model_file_is_refused(card: ModelCard, tmp_path: Path) -> None:
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(card.path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="sha256"):
        EnhanceStage(replace(card, path=changed)).open(make_frame().format)


def test_auto_means_the_network_for_streams() -> None:
    """Sorted by file, upscale-x2-nano-clean.toml comes before upscale-x2-nano.toml."""
    for scale in (None, 2):
        card = streamer.choose_model("auto", scale)
        assert card is not None
        assert card.name == "upscale-x2-nano"
        assert card.conditioned
