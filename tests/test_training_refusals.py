"""What training, evaluation and export refuse, and that they say why before the long work begins; needs torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
pytest.importorskip("onnxruntime", reason="the extra `train` (onnxruntime) is not installed")

from onnx_models import train
from onnx_models.__main__ import main
from onnx_models.checkpoint import LOG, Checkpoint
from onnx_models.config import load_config
from onnx_models.errors import TrainingError
from onnx_models.export import read_curve
from onnx_models.networks import Network
from tests.photos import picture
from tests.test_training import write_config

pytestmark = pytest.mark.slow


# --- configurations ---


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("pool", "shards = 0", "shards is 0; must be at least 1"),
        ("pool", "sequences_per_shard = 0", "must be at least 1"),
        ("pool", "patches_per_sequence = 0", "must be at least 1"),
        ("pool", "validation_sequences = 0", "must be at least 1"),
        ("pool", "validation_share = 2.0", "validation_share is 2.0; must be from 0 to 1"),
        ("pool", "patch_px = 0", "must be at least 1"),
        ("pool", "patch_px = 33", "patch_px is 33; it must be a multiple of [shape] unshuffle, 2"),
        ("pool", "patch_px = 8", "patch_px is 8; "),
        ("pool", "patches_per_sequence = 1\nsuccessive = true", "patches_per_sequence is 1"),
        ("scene", "frames = 0", "must be at least 1"),
        ("scene", "clip_reduce = []", "clip_reduce is empty"),
        ("scene", "clip_reduce = [0]", "clip_reduce is (0,); must be at least 1"),
        ("scene", "clip_share = -1.0", "must be from 0 to 1"),
        ("scene", "soften_sigma_px = [0.5]", "soften_sigma_px is (0.5,); it must be a lowest and a highest value"),
        ("scene", "soften_sigma_px = [0, 1]", "must be above 0"),
        ("scene", "width_px = 0", "must be at least 4"),
        ("degrade", "crf = [38]", "it must be a lowest and a highest value"),
        ("degrade", "crf = [38, 12]", "it must be a lowest and a highest value"),
        ("degrade", "crf = [12, 99]", "crf is (12, 99); must be from 0 to 51"),
        ("degrade", "keyint = [0, 250]", "must be at least 1"),
        ("degrade", "noise_sigma = [0, 6]", "must be above 0"),
        ("degrade", "kernel_weights = [0, 0, 0, 0]", "kernel_weights are all 0"),
        ("degrade", "kernel_weights = [-1, 1, 1, 1]", "must be at least 0"),
        ("degrade", "kernels = []\nkernel_weights = []", "kernels is empty"),
        ("degrade", "noise_share = 3.0", "must be from 0 to 1"),
        ("train", "rate = -1.0", "must be at least 0"),
        ("train", "rate = nan", "rate is nan; must be finite"),
        ("train", "rate = inf", "rate is inf; must be finite"),
        ("train", "gain_min_db = nan", "gain_min_db is nan; must be finite"),
        ("train", "decay_share = 2.0", "must be from 0 to 1"),
        ("train", "ema = 1.5", "must be from 0 to 1"),
        ("train", "assert_after = -1", "must be at least 0"),
        ("train", "precise_share = 7.0", "must be from 0 to 1"),
        ("train", "clip_norm = 0.0", "must be above 0"),
        ("train", "crop_px = 25", "crop_px is 25; it must be a multiple of [shape] unshuffle, 2"),
        ("train", "crop_px = 48", "[train] crop_px 48 exceeds [pool] patch_px 32; lower it"),
        ("shape", "width = true", "width is True; it must be int"),
        ("card", 'task = "enlarge"', "task is 'enlarge'; allowed: upscale, restore"),
    ],
)
def test_values_out_of_range_are_refused(section: str, line: str, message: str, tmp_path: Path) -> None:
    names = [entry.split(" =")[0] for entry in line.splitlines()]
    path = write_config(tmp_path)
    kept = [old for old in path.read_text(encoding="utf-8").splitlines() if old.split(" =")[0] not in names]
    text = "\n".join(kept).replace(f"[{section}]", f"[{section}]\n{line}")
    path.write_text(text if f"[{section}]" in text else f"{text}\n[{section}]\n{line}\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=re.escape(message)):
        load_config(path)


def test_frames_that_follow_each_other_need_two(tmp_path: Path) -> None:
    changes = ("frames = 4", "frames = 1"), ("patch_px = 32", "patch_px = 32\nsuccessive = true")
    with pytest.raises(TrainingError, match=r"\[scene\] frames is 1; with \[pool\] successive = true .* at least 2"):
        load_config(write_config(tmp_path, *changes))


def test_a_judge_needs_sides_that_it_can_halve(tmp_path: Path) -> None:
    vivid = "width = 8", "width = 8\nconditioned = true\nvivid = true"
    changes = vivid, ("crop_px = 24", "crop_px = 22\njudge_weight = 0.1")
    with pytest.raises(TrainingError, match=r"crop_px is 22; with judge_weight .* multiple of 8"):
        load_config(write_config(tmp_path, *changes))


def test_a_seed_is_a_whole_number(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="seed is True"):
        load_config(write_config(tmp_path, ('name = "tiny"', 'name = "tiny"\nseed = true')))


def test_a_configuration_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "größer"'.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"latin\.toml is not TOML"):
        load_config(path)


# --- before patches are made ---


@pytest.fixture
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes patches has begun too early."""

    def made(*_: object) -> None:
        raise AssertionError("the pool was made before everything else was known to be right")

    monkeypatch.setattr(train, "make_pool", made)


def checkpoint_of(config: Path, path: Path) -> Path:
    """A checkpoint as `train` writes it, after no step."""
    loaded = load_config(config)
    weights = Network(loaded.shape).state_dict()
    Checkpoint(loaded, 0, 0.0, weights, weights, []).save(path)
    return path


@pytest.mark.usefixtures("no_pool")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start-from", "none.pt"], "checkpoint none.pt cannot be read"),
        (["--device", "warp"], "device warp cannot be used"),
        (["--device", "meta"], "device meta cannot be used"),
    ],
)
def test_what_cannot_train_is_refused_at_once(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    arguments = ["train", str(config), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, *options]) == 1
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pool")
def test_checkpoints_that_do_not_fit_are_refused_at_once(tmp_path: Path) -> None:
    wide = load_config(write_config(tmp_path, ("width = 8", "width = 6\nscale = 3")))
    tiny = checkpoint_of(write_config(tmp_path), tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="no layer of"):
        train.Trainer(wide, [tmp_path], tmp_path / "out", start_from=tiny)
    with pytest.raises(TrainingError, match="was trained with shape w8d1u2"):
        train.Trainer(wide, [tmp_path], tmp_path)
    tiny.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be read"):
        train.Trainer(wide, [tmp_path], tmp_path)


def test_threads_and_jobs_are_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="threads is 0; must be at least 1"):
        train.Place(threads=0)
    with pytest.raises(TrainingError, match="jobs is 0; must be at least 1"):
        train.Place(jobs=0)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "x.toml", "--data", str(tmp_path), "--out", str(tmp_path), "--jobs", "0"])


# --- logs ---


def test_a_torn_log_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / LOG
    whole = '{"step": 4, "gain_db": 0.5}\n'
    log.write_text(whole + '{"step": 8, "gain_db"')
    assert read_curve(log) == ((4, 0.5),)
    log.write_text('{"step": 4, "ga' + whole)
    with pytest.raises(TrainingError, match=r"line 1 of .*log\.jsonl is damaged"):
        read_curve(log)


def test_a_resumed_log_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, ("steps = 12", "steps = 2"))
    cv2.imwrite(str(tmp_path / "one.png"), picture(0))
    log = tmp_path / LOG
    log.write_text('{"step": 0}\n{"step": 1, "lo')
    train.Trainer(load_config(config), [tmp_path], tmp_path, place=train.Place(threads=1)).run()
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 2, 2]
