"""The shipped models and their cards, and the measures their figures come from."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_models import cards
from onnx_models.enhancer import open_enhancer
from onnx_models.errors import TrainingError
from onnx_models.evaluate import CLEAN, Condition, Sampling, evaluate, paper_pair, score_clip, table
from onnx_models.level import level_of_noise
from onnx_models.quality import bicubic, lanczos, psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CARDS = cards.list_cards()
SMALLEST_PX = 8

every_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def enhance(path: Path, luma: np.ndarray[Any, Any], strength: float = 1.0) -> np.ndarray[Any, Any]:
    """The bare graph through ONNX Runtime: no padding, no cropping."""
    ort: Any = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    levels = {"strength": strength, "level": 0.4, "noise": 0.2}
    taken = [value.name for value in session.get_inputs()]
    scalars = {name: np.array([value], np.float32) for name, value in levels.items() if name in taken}
    feeds = {"luma": luma[None, None], **scalars}
    return np.asarray(session.run(["enhanced"], feeds)[0][0, 0])


# --- the zoo ---


def test_the_zoo_holds_the_default_model() -> None:
    assert "upscale-x2-nano" in [card.name for card in CARDS]


@every_card
def test_file_matches_its_card(card: cards.ModelCard) -> None:
    cards.verify(card)
    assert cards.load_card(card.name) == card


@every_card
def test_card_says_what_users_need(card: cards.ModelCard) -> None:
    assert card.train_data
    assert card.licence
    assert card.origin
    assert card.limits
    assert card.metrics
    assert all(metric.set and metric.protocol for metric in card.metrics)


@every_card
def test_graph_fulfils_the_contract(card: cards.ModelCard) -> None:
    model = onnx.load(card.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version <= 10
    graph = model.graph
    types = {v.name: v.type.tensor_type for v in [*graph.input, *graph.output]}
    scalars = ["strength", "level", "noise"] if card.conditioned else ["strength"]
    assert {name: t.elem_type for name, t in types.items()} == {
        "luma": TensorProto.UINT8,
        **dict.fromkeys(scalars, TensorProto.FLOAT),
        "enhanced": TensorProto.UINT8,
    }
    assert [d.dim_param for d in types["luma"].shape.dim[2:]] == ["height", "width"]
    assert all([d.dim_value for d in types[name].shape.dim] == [1] for name in scalars)
    first, last = graph.node[0], graph.node[-1]
    assert (first.name, first.op_type, list(first.input)) == ("pixels_in", "Cast", ["luma"])
    assert (last.name, last.op_type, list(last.output)) == ("pixels_out", "Cast", ["enhanced"])


@every_card
def test_only_networks_that_enlarge_have_an_int8_form(card: cards.ModelCard) -> None:
    """At the same size 8-bit integers lose more than a network gains."""
    names = [entry.key for entry in onnx.load(card.path).metadata_props]
    assert ("activation_peaks" in names) == (card.scale > 1)


@every_card
def test_unit_and_peak_can_be_changed_for_deeper_formats(card: cards.ModelCard) -> None:
    graph = onnx.load(card.path).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for name, users in (("unit", ["Div", "Mul"]), ("peak", ["Clip"])):
        assert values[name].shape == ()
        assert values[name].dtype == np.float32
        assert values[name] == 255
        assert sorted(n.op_type for n in graph.node if name in n.input) == users


@every_card
@pytest.mark.parametrize(("height", "width"), [(SMALLEST_PX, SMALLEST_PX), (36, 52), (64, 48)])
def test_strength_0_is_the_bicubic_interpolation(card: cards.ModelCard, height: int, width: int) -> None:
    luma = noise(height, width)
    found, wanted = (codes.astype(int) for codes in (enhance(card.path, luma, 0.0), bicubic(luma, card.scale)))
    # By 4, sums of 28 bits that end in one half of a code are rounded by the order in which they were added.
    ties = 1e-3 if card.scale == 4 else 0
    assert np.abs(found - wanted).max() <= (1 if ties else 0)
    assert np.mean(found != wanted) <= ties


@every_card
def test_strength_1_adds_something(card: cards.ModelCard) -> None:
    luma = 100 + noise(32, 32) // 16  # full contrast is a picture, which networks that restore leave alone
    assert (enhance(card.path, luma, 1.0) != bicubic(luma, card.scale)).any()


@every_card
def test_tiles_with_the_cards_halo_give_the_untiled_picture(card: cards.ModelCard) -> None:
    side, halo = 24 * card.multiple_of, card.halo_px
    assert halo % card.multiple_of == 0
    luma = noise(side + 4 * halo, side + 4 * halo)
    whole = enhance(card.path, luma)
    start, stop = 2 * halo, 2 * halo + side
    tile = enhance(card.path, luma[start - halo : stop + halo, start - halo : stop + halo])
    inner = slice(halo * card.scale, (halo + side) * card.scale)
    outer = slice(start * card.scale, stop * card.scale)
    difference = np.abs(tile[inner, inner].astype(int) - whole[outer, outer])
    assert difference.max() <= 1  # sums in another order may cross a rounding edge
    assert np.mean(difference > 0) < 1e-3


def test_importing_cards_loads_no_library() -> None:
    code = (
        "import sys; import onnx_models.cards; "
        "heavy = {'torch', 'onnx', 'numpy', 'cv2', 'av', 'streamer', 'engines'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- cards that cannot be used ---


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A card and its model, to be damaged."""
    card = cards.load_card("upscale-x2-nano")
    path = tmp_path / f"{card.name}.toml"
    path.write_bytes(card.path.with_suffix(".toml").read_bytes())
    path.with_suffix(".onnx").write_bytes(card.path.read_bytes())
    return path


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(cards.CardError, match=r"'nope'.*available: .*upscale-x2-nano"):
        cards.load_card("nope")


@pytest.mark.parametrize("name", ["../zoo/upscale-x2-nano", "", "/etc/passwd"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(cards.CardError, match="no model"):
        cards.load_card(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scale = 2", "scale = 2\ncolour = 1", "unknown keys: colour"),
        ("scale = 2\n", "", "lacks keys: scale"),
        ("scale = 2", 'scale = "2"', "scale is '2'; it must be of type int"),
        ("scale = 2", "scale = true", "scale is True"),
        ("scale = 2", "scale = 0", "scale is 0; must be at least 1"),
        ('task = "upscale"', 'task = "magic"', "task is 'magic'; allowed: upscale, restore"),
        ('color = "luma"', 'color = "rgb"', "color is 'rgb'; allowed: luma"),
        ('name = "upscale-x2-nano"', 'name = "other"', "it must be the file's: upscale-x2-nano"),
        ('sha256 = "', 'sha256 = "XYZ', "not 64 lower-case hexadecimal digits"),
        ("scale = 2", "scale = ", "is not TOML"),
        ("curve = [[2000, ", "curve = [[99000, ", "steps of curve must rise"),
        ("curve = [[2000, ", 'curve = [["a", ', "must be an array of"),
    ],
)
def test_a_wrong_card_is_refused(copy: Path, old: str, new: str, message: str) -> None:
    edit(copy, lambda text: text.replace(old, new, 1))
    with pytest.raises(cards.CardError, match=message):
        cards.read_card(copy)


def test_a_wrong_metric_is_refused(copy: Path) -> None:
    edit(copy, lambda text: text + '\n[[metrics]]\nname = "x"\nvalue = "high"\nunit = ""\nset = ""\ncondition = ""\n')
    with pytest.raises(cards.CardError, match="lacks keys: protocol"):
        cards.read_card(copy)


def test_a_missing_card_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(cards.CardError, match="cannot be read"):
        cards.read_card(tmp_path / "none.toml")


def test_a_changed_model_is_refused(copy: Path) -> None:
    model = copy.with_suffix(".onnx")
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(cards.CardError, match=r"its card says .*; the file is damaged"):
        cards.verify(cards.read_card(copy))


def test_a_missing_model_is_an_error(copy: Path) -> None:
    copy.with_suffix(".onnx").unlink()
    with pytest.raises(cards.CardError, match="cannot be read"):
        cards.verify(cards.read_card(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"task": "enlarge"}, "task is 'enlarge'"), ({"sha256": "0" * 64}, "its card says 0000")],
)
def test_publishing_what_could_not_be_read_again_changes_nothing(
    copy: Path, change: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in copy.parent.iterdir()}
    with pytest.raises(cards.CardError, match=message):
        cards.publish(replace(cards.read_card(copy), **change), copy.with_suffix(".onnx").read_bytes())
    assert {path.name: path.read_bytes() for path in copy.parent.iterdir()} == before


# --- measures ---


def test_psnr_by_hand() -> None:
    flat = np.full((20, 30), 100, np.uint8)
    assert psnr(flat, flat + 5) == pytest.approx(10 * math.log10(255**2 / 25))
    half = flat.copy()
    half[:10] += 4  # mean square 16 / 2
    assert psnr(half, flat) == pytest.approx(10 * math.log10(255**2 / 8))
    assert psnr(flat, flat) == 100
    assert psnr(np.zeros_like(flat), np.full_like(flat, 255)) == 0


def test_psnr_shaves_the_border() -> None:
    flat = np.full((20, 30), 100, np.uint8)
    framed = flat.copy()
    framed[[0, -1]], framed[:, [0, -1]] = 0, 0
    assert psnr(framed, flat) < 30
    assert psnr(framed, flat, shave_px=1) == 100


def test_ssim_by_hand() -> None:
    flat = np.full((20, 30), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)  # no variance: luminance term only
    assert ssim(flat, flat + 10) == pytest.approx(expected)
    assert ssim(noise(20, 30), noise(20, 30)) == pytest.approx(1)
    assert ssim(noise(40, 40, 1), noise(40, 40, 2)) < 0.1


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_measures_refuse_other_sizes(measure: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="sizes differ"):
        measure(noise(20, 30), noise(20, 32))


def test_ssim_refuses_pictures_below_its_window() -> None:
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(noise(20, 12), noise(20, 12), shave_px=1)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_interpolations_keep_flat_pictures_and_sizes(scale: int) -> None:
    flat = np.full((9, 11), 77, np.uint8)
    for interpolate in (bicubic, lanczos):
        np.testing.assert_array_equal(interpolate(flat, scale), np.full((9 * scale, 11 * scale), 77))


def test_bicubic_by_hand() -> None:
    step = np.array([[0, 0, 0, 0, 128, 128, 128, 128]], np.uint8).repeat(8, axis=0)
    # weights in 128ths: 111 at distance 1/4, 29 at 3/4, -9 at 5/4, -3 at 7/4
    expected = [0] * 7 + [29 - 3, 111 - 9, 111 + 29 - 3, 29 + 111 - 9] + [128] * 5
    np.testing.assert_array_equal(bicubic(step, 2), [expected] * 16)


# --- the evaluator ---


def write_clip(path: Path, frames: int = 6, side: int = 64) -> None:
    """A lossless clip of a moving pattern."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        ramp = np.add.outer(np.arange(side), np.arange(side))
        for t in range(frames):
            luma = (128 + 60 * np.sin((ramp + 2 * t) / 5)).astype(np.uint8)
            stacked = np.concatenate([luma, np.full((side // 2, side), 128, np.uint8)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stacked, format="yuv420p")))
        container.mux(stream.encode(None))


def test_a_method_that_is_right_scores_100() -> None:
    flat = np.full((32, 32), 90, np.uint8)
    grey = np.full((16, 16), 128, np.uint8)
    methods = {
        "right": lambda low, _: low.repeat(2, 0).repeat(2, 1),
        "off by 5": lambda low, _: low.repeat(2, 0).repeat(2, 1) + 5,
    }
    clip = [(flat, grey, grey)] * 3
    scores = score_clip(clip, methods, 2, conditions=(CLEAN,), every=1)["clean"]
    assert scores["right"].psnr_db == 100
    assert scores["off by 5"].psnr_db == pytest.approx(10 * math.log10(255**2 / 25))


def test_a_flavour_is_the_end_of_a_name() -> None:
    card = cards.load_card("upscale-x2-nano")
    names = {"upscale-x2-nano": "", "upscale-x2-nano-clean": "clean", "restore-x1-small-vivid": "vivid", "my-model": ""}
    assert {name: replace(card, name=name).flavour for name in names} == names


def test_conditions_say_what_they_do_and_their_level() -> None:
    flat, grey = np.full((64, 64), 90, np.uint8), np.full((32, 32), 128, np.uint8)
    received = {}
    for condition in (CLEAN, Condition(noise_sigma=5), Condition(30), Condition(30, noise_sigma=5), Condition(jpeg=10)):
        lumas, levels = condition.apply([(flat, grey, grey)] * 4)
        received[str(condition)] = (np.stack(lumas), *levels)
    assert list(received) == ["clean", "noise 5", "CRF 30", "noise 5 + CRF 30", "JPEG q10"]
    assert np.array_equal(received["clean"][0], np.stack([flat] * 4))
    assert received["clean"][1:] == (0, 0)
    assert received["noise 5"][0].std() == pytest.approx(5, rel=0.05)
    assert received["noise 5"][1] == 0
    assert received["noise 5"][2] == pytest.approx(level_of_noise(5), abs=0.01)
    assert received["noise 5 + CRF 30"][1] > received["CRF 30"][1] > 0.05
    assert received["noise 5 + CRF 30"][2] < received["noise 5"][2]


def test_evaluation_of_a_shipped_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    write_clip(tmp_path / "waves.mkv")
    cv2.imwrite(str(tmp_path / "one.png"), np.dstack([noise(64, 64)] * 3))
    report = evaluate("upscale-x2-nano", [tmp_path], pictures=[tmp_path], sampling=Sampling(frames=6, every=3))
    clip = {row.condition: row for row in report.rows if row.set == "clips"}
    assert {"clean", "CRF 18", "CRF 38", "noise 5", "noise 4 + CRF 28"} < set(clip)
    assert set(clip["clean"].scores) == {"bicubic", "lanczos", "model"}
    assert clip["clean"].scores["model"].psnr_db > clip["CRF 33"].scores["model"].psnr_db
    assert clip["clean"].baseline == "lanczos"
    assert report.weakest() == [min(clip.values(), key=lambda row: row.gain_db)]
    (picture,) = [row for row in report.rows if row.set == tmp_path.name]
    assert picture.item == "one"
    assert {row.set for row in report.means} == {"clips", tmp_path.name} == set(report.protocols)
    assert all(row.item == "mean" and row.gain_db == clip[row.condition].gain_db for row in report.means[:-1])
    assert len(table(report).splitlines()) == 1 + len(clip) + len(clip) + 1


def test_pictures_are_measured_as_publications_do(tmp_path: Path) -> None:
    white = np.full((43, 35, 3), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "white.png"), white)
    low, original = paper_pair(tmp_path / "white.png", 2)
    assert (low.shape, original.shape) == ((21, 17), (42, 34))
    assert set(original.flat) == set(low.flat) == {235}  # BT.601, limited range
    cv2.imwrite(str(tmp_path / "red.png"), white * np.array([0, 0, 1], np.uint8))
    assert set(paper_pair(tmp_path / "red.png", 1)[1].flat) == {81}


def test_odd_sizes_are_padded_and_cropped() -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    enhancer = open_enhancer("upscale-x2-nano")
    assert enhancer.scale == 2
    assert enhancer.run(noise(33, 47)).shape == (66, 94)


@pytest.mark.parametrize(
    ("model", "message"), [("nope", "no model 'nope'"), ("missing.onnx", "missing.onnx cannot be opened")]
)
def test_models_that_cannot_be_evaluated(model: str, message: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    with pytest.raises(TrainingError, match=message):
        open_enhancer(model)


def test_an_empty_folder_cannot_be_evaluated(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    with pytest.raises(TrainingError, match="no photographs or clips"):
        evaluate("upscale-x2-nano", [tmp_path])


def test_commands_say_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module("onnx_models.__main__").main
    assert main(["evaluate", "nope"]) == 1
    assert "error: no model 'nope'" in capsys.readouterr().err
