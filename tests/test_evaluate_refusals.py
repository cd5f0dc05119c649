"""What can't be measured is refused, and nothing is measured that wasn't asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")

from onnx_models import cards
from onnx_models.__main__ import main
from onnx_models.enhancer import open_enhancer
from onnx_models.errors import TrainingError
from onnx_models.evaluate import Sampling, evaluate
from tests.clips import Clip
from tests.photos import picture

MODEL = "restore-x1-nano"


def write_model(path: Path, inputs: dict[str, tuple[int, list[Any]]], kind: int, opset: int = 17) -> Path:
    """A network that gives its first input, as `enhanced` of that kind."""
    taken = [helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in inputs.items()]
    given = helper.make_tensor_value_info("enhanced", kind, [1, 1, "height", "width"])
    node = helper.make_node("Cast", [next(iter(inputs))], ["enhanced"], to=kind)
    graph = helper.make_graph([node], "test", taken, [given])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


LUMA, STRENGTH = (TensorProto.UINT8, [1, 1, "height", "width"]), (TensorProto.FLOAT, [1])
FLOATS = (TensorProto.FLOAT, [1, 1, "height", "width"])


def test_a_network_by_contract_can_be_measured_without_a_card(tmp_path: Path) -> None:
    path = write_model(tmp_path / "same.onnx", {"luma": LUMA, "strength": STRENGTH}, TensorProto.UINT8)
    assert open_enhancer(str(path)).scale == 1


@pytest.mark.parametrize(
    ("inputs", "kind", "opset", "message"),
    [
        ({"input": FLOATS}, TensorProto.FLOAT, 17, "takes input"),
        ({"luma": LUMA}, TensorProto.UINT8, 17, "takes luma"),
        ({"luma": FLOATS, "strength": STRENGTH}, TensorProto.FLOAT, 17, r"takes luma \(tensor\(float\)\), strength"),
        ({"luma": LUMA, "strength": STRENGTH}, TensorProto.FLOAT, 17, r"gives enhanced \(tensor\(float\)\)"),
        (
            {"luma": (TensorProto.UINT8, [1, 1, 360, 640]), "strength": STRENGTH},
            TensorProto.UINT8,
            17,
            "cannot enhance 16x16",
        ),
        ({"luma": LUMA, "strength": STRENGTH}, TensorProto.UINT8, 99, "cannot be opened"),
    ],
    ids=["other names", "no strength", "floats", "float result", "fixed size", "unknown opset"],
)
def test_networks_of_another_layout_are_refused(
    inputs: dict[str, tuple[int, list[Any]]], kind: int, opset: int, message: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "other.onnx", inputs, kind, opset)
    with pytest.raises(TrainingError, match=rf"other\.onnx .*{message}"):
        open_enhancer(str(path))


def test_a_model_that_is_not_its_cards_is_refused(tmp_path: Path) -> None:
    card = cards.load_card(MODEL)
    path = tmp_path / f"{MODEL}.onnx"
    path.with_suffix(".toml").write_bytes(card.path.with_suffix(".toml").read_bytes())
    path.write_bytes(card.path.with_stem("restore-x1-small").read_bytes())
    with pytest.raises(TrainingError, match=r"its card says"):
        open_enhancer(str(path))


def test_sets_that_are_missing_or_empty_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), picture(0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="none does not exist"):
        evaluate(MODEL, pictures=[tmp_path, tmp_path / "none"])
    with pytest.raises(TrainingError, match=r"no pictures in .*empty"):
        evaluate(MODEL, pictures=[tmp_path, tmp_path / "empty"])
    with pytest.raises(TrainingError, match="no clips in"):
        evaluate(MODEL, [tmp_path], pictures=[tmp_path])


def test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / part / "Set5" for part in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "one.png"), picture(0))
    with pytest.raises(TrainingError, match="two sets are called Set5"):
        evaluate(MODEL, pictures=folders)
    with pytest.raises(TrainingError, match="two sets are called clips"):
        evaluate(MODEL, pictures=[folders[0].rename(tmp_path / "clips")])


@pytest.mark.parametrize("reduce", [1, 20])
def test_what_is_too_small_for_ssim_is_refused(reduce: int, tmp_path: Path) -> None:
    Clip(32, 16, frames=2).write(tmp_path / "tiny.mkv")
    with pytest.raises(TrainingError, match=r"tiny\.mkv .*too small"):
        evaluate(MODEL, [tmp_path], sampling=Sampling(2, 1, reduce))


def test_a_picture_too_small_for_ssim_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "tiny.png"), picture(0, 8, 40))
    with pytest.raises(TrainingError, match=r"tiny\.png .*too small"):
        evaluate(MODEL, pictures=[tmp_path])


@pytest.mark.parametrize("option", ["--every", "--reduce", "--frames", "--threads"])
def test_numbers_below_one_are_bad_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", MODEL, option, "0"])
    assert f"argument {option}: 0 is not a whole number from 1" in capsys.readouterr().err


def test_figures_that_cannot_be_written_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), picture(0))
    assert main(["evaluate", MODEL, "--pictures", str(tmp_path), "--json", str(tmp_path / "none" / "x.json")]) == 1
    assert f"error: {tmp_path / 'none'} does not exist" in capsys.readouterr().err


def test_curves_of_an_unknown_format_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", str(tmp_path / "curves.xyz")]) == 1
    assert "curves.xyz: name an .svg or .png file" in capsys.readouterr().err


@pytest.mark.slow
def test_curves_that_cannot_be_written_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="curves are drawn by the train extra's matplotlib")
    assert main(["curves", str(tmp_path / "none" / "curves.svg")]) == 1
    assert "No such file or directory" in capsys.readouterr().err
