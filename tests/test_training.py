"""Training, its pools and configurations, and export, on synthesised material; seconds, but it needs torch."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
pytest.importorskip("onnxruntime", reason="the extra `train` (onnxruntime) is not installed")

import torch

from onnx_models import cards
from onnx_models.__main__ import main
from onnx_models.checkpoint import LOG, load_checkpoint
from onnx_models.config import load_config
from onnx_models.errors import TrainingError
from onnx_models.export import export
from onnx_models.pool import make_pool
from onnx_models.quality import bicubic, psnr
from onnx_models.scenes import Scenes, find_files, read_photo
from onnx_models.train import (
    CHECKPOINT,
    FLICKER_MIN,
    LOSS_UNIT,
    SHEET,
    Place,
    Trainer,
    flicker_loss,
    harm_loss,
    loss_of,
    make_batch,
)
from tests.photos import picture

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(cards.__file__).parent / "configs").glob("*.toml"))
CONFIG = """
name = "tiny"
[shape]
width = 8
depth = 1
unshuffle = 2
[train]
steps = 12
batch = 2
crop_px = 24
validate_every = 4
log_every = 2
assert_after = 1000
[pool]
shards = 2
sequences_per_shard = 2
patches_per_sequence = 4
patch_px = 32
validation_sequences = 1
[scene]
width_px = 128
height_px = 96
smallest_px = 64
frames = 4
[card]
train_data = "synthetic"
licence = "none"
limits = "a test"
"""


def write_clip(path: Path, frames: int = 8) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        canvas = picture(9, 128, 200)
        for t in range(frames):
            part = np.ascontiguousarray(canvas[:, 2 * t : 2 * t + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="bgr24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs and a clip."""
    folder = tmp_path_factory.mktemp("data")
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), picture(seed))
    write_clip(folder / "clip.mp4")
    return folder


def write_config(folder: Path, *changes: tuple[str, str]) -> Path:
    text = CONFIG
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training from beginning to end, by the command."""
    out = tmp_path_factory.mktemp("trained")
    config = write_config(out)
    arguments = ["train", str(config), "--data", str(data), "--out", str(out), "--threads", "1"]
    assert main(arguments) == 0
    return out


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]


# --- one training ---


def test_training_logs_losses_and_validations(trained: Path) -> None:
    log = log_of(trained)
    assert [entry["step"] for entry in log if "loss" in entry] == [2, 4, 6, 8, 10, 12]
    validations = [entry for entry in log if "validation_db" in entry]
    assert [entry["step"] for entry in validations] == [4, 8, 12]
    for entry in validations:
        assert entry["gain_db"] == pytest.approx(entry["validation_db"] - entry["interpolation_db"], abs=2e-4)
    sheet = cv2.imread(str(trained / SHEET), cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    assert sheet.shape == (4 * 64, 3 * 64)  # a row a validation patch: interpolation, network, target


def test_losses_by_hand() -> None:
    target = torch.zeros(2, 1, 8, 8)
    before = torch.stack([torch.full((1, 8, 8), 0.04), torch.full((1, 8, 8), 0.01)])
    after = torch.stack([torch.full((1, 8, 8), 0.02), torch.full((1, 8, 8), 0.03)])
    assert float(loss_of("l1", after, target, before)) == pytest.approx(0.025)
    assert float(loss_of("mse", after, target, before)) == pytest.approx((0.02**2 + 0.03**2) / 2 / LOSS_UNIT)
    floor = 0.1 * LOSS_UNIT
    balanced = (0.02**2 / (0.04 + floor) + 0.03**2 / (0.01 + floor)) / 2
    assert float(loss_of("balanced_mse", after, target, before)) == pytest.approx(balanced)
    assert float(harm_loss(after, target, before)) == pytest.approx((0.03**2 - 0.01**2) / (0.01 + floor) / 2)
    assert float(harm_loss(target, target, before)) == 0


def test_only_what_the_target_does_not_do_flickers() -> None:
    steady, target = torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    target[3] = 0.3
    plain = target.clone()
    plain[3] = 0.2
    weights = torch.tensor([1.0, 1.0, 0.5, 0.5])
    assert float(flicker_loss(target + 0.1, target, plain, weights)) == pytest.approx(0, abs=1e-7)
    assert float(flicker_loss(steady, target, target, weights)) == pytest.approx(0.5 * 0.3 / FLICKER_MIN / 2)
    assert float(flicker_loss(steady, target, plain, weights)) == pytest.approx(
        0.5 * 0.2 / (0.1 + FLICKER_MIN) / 2, rel=1e-5
    )
    assert float(flicker_loss(plain, target, steady, weights)) == 0  # less than the interpolation's earns nothing


def test_a_killed_training_resumes_to_the_same_weights(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, place = load_config(write_config(tmp_path)), Place(pool_dir=trained, threads=1)
    update = Trainer._update

    def killed_at_7(self: Trainer) -> float:
        if self.step == 7:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(Trainer, "_update", killed_at_7)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, [data], tmp_path, place=place).run()
    monkeypatch.undo()
    resumed = Trainer(config, [data], tmp_path, place=place)
    assert resumed.step == 4
    resumed.run()
    expected, found = load_checkpoint(trained / CHECKPOINT).ema, load_checkpoint(tmp_path / CHECKPOINT).ema
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-6, msg=name)


def test_a_finished_training_has_nothing_to_do(trained: Path, data: Path) -> None:
    before = (trained / LOG).read_text(encoding="utf-8")
    Trainer(load_config(trained / "tiny.toml"), [data], trained).run()
    assert (trained / LOG).read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 12", 'steps = 4\noptimiser = "adam"'),
        ("steps = 12", 'steps = 4\nloss = "relative"\nprecision = "bf16"'),
        ("steps = 12", 'steps = 4\nloss = "logmse"'),
        ("steps = 12", 'steps = 4\nloss = "balanced_mse"\nharm_weight = 2.0'),
    ],
)
def test_other_plans_train_and_export(old: str, new: str, trained: Path, data: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, (old, new)))
    checkpoint = Trainer(config, [data], tmp_path / "out", place=Place(pool_dir=trained)).run()
    export(checkpoint, "other", tmp_path)


def test_a_new_training_can_start_from_a_checkpoint(trained: Path, data: Path, tmp_path: Path) -> None:
    config, place = load_config(trained / "tiny.toml"), Place(pool_dir=trained)
    trainer = Trainer(config, [data], tmp_path, trained / CHECKPOINT, place)
    assert trainer.step == 0
    weights = load_checkpoint(trained / CHECKPOINT).ema["convs.0.matrix"]
    torch.testing.assert_close(trainer.network.state_dict()["convs.0.matrix"], weights)


def test_a_judged_training_resumes_with_its_judge(trained: Path, data: Path, tmp_path: Path) -> None:
    plan = "judge_weight = 0.01\ntexture_weight = 0.5\ngain_min_db = -99.0\nassert_after = 1"
    shape = "unshuffle = 2\nconditioned = true\nvivid = true"
    place = Place(pool_dir=trained, threads=1)

    def train(steps: int, out: Path) -> dict[str, Any]:
        changes = ("assert_after = 1000", plan), ("steps = 12", f"steps = {steps}"), ("unshuffle = 2", shape)
        config = load_config(write_config(tmp_path, *changes))
        checkpoint = load_checkpoint(Trainer(config, [data], out, place=place).run())
        assert checkpoint.judge is not None
        weights: dict[str, Any] = checkpoint.judge["net"] | checkpoint.network
        return weights

    whole = train(8, tmp_path / "whole")
    half = train(4, tmp_path / "halves")
    again = train(8, tmp_path / "halves")
    assert any(not torch.equal(half[name], again[name]) for name in half if "first" in name)
    assert whole.keys() == again.keys()


def test_frames_that_follow_each_other_stay_together(data: Path, tmp_path: Path) -> None:
    plan = "flicker_weight = 1.0\ngain_min_db = -99.0\nassert_after = 1"
    shape = "unshuffle = 2\nconditioned = true\nvivid = true"
    still = "frames = 4\nclip_share = 0.0\nstill_share = 1.0\nzoom_share = 0.0\n[degrade]\nuncompressed_share = 1.0"
    changes = ("assert_after = 1000", plan), ("unshuffle = 2", shape), ("batch = 2", "batch = 6"), ("frames = 4", still)
    config = load_config(write_config(tmp_path, *changes, ("patch_px = 32", "patch_px = 32\nsuccessive = true")))
    trainer = Trainer(config, [data], tmp_path)
    _, high, levels, vividness = make_batch(trainer.patches, config, 0, "cpu")
    for of_each in (high, levels, vividness):
        assert torch.equal(of_each[::2], of_each[1::2]), "a still camera shows the same twice"
    assert not torch.equal(high[0], high[2])
    assert load_checkpoint(trainer.run()).step == 12


def test_other_scales_train_and_export(trained: Path, data: Path, tmp_path: Path) -> None:
    shape = ("unshuffle = 2", "unshuffle = 1\nscale = 3\nconditioned = true")
    config = write_config(tmp_path, shape, ("crop_px = 24", "crop_px = 12"), ("patch_px = 32", "patch_px = 16"))
    card = export(Trainer(load_config(config), [data], tmp_path / "out").run(), "other", tmp_path)
    assert (card.scale, card.conditioned) == (3, True)
    change = ("width = 8\n", "width = 6\nscale = 3\n")
    start = write_config(tmp_path, change, ("crop_px = 24", "crop_px = 12"), ("patch_px = 32", "patch_px = 16"))
    with pytest.raises(TrainingError, match="no layer of"):
        Trainer(load_config(start), [data], tmp_path / "new", trained / CHECKPOINT)


def test_a_training_that_does_not_learn_stops(trained: Path, data: Path, tmp_path: Path) -> None:
    change = ("assert_after = 1000", "assert_after = 1\nmatrix_rate = 0\nrate = 0")
    config = load_config(write_config(tmp_path, change))
    with pytest.raises(TrainingError, match="the network has not learnt to help"):
        Trainer(config, [data], tmp_path, place=Place(pool_dir=trained)).run()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 8", "width = 12", "shape w8d1u2, the configuration asks for w12d1u2"),
        ("steps = 12", 'steps = 12\noptimiser = "adam"', "train.optimiser muon, the configuration asks for adam"),
    ],
)
def test_a_checkpoint_of_another_kind_is_not_continued(
    old: str, new: str, message: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    config = load_config(write_config(tmp_path, (old, new)))
    with pytest.raises(TrainingError, match=message):
        Trainer(config, [data], trained)


# --- export ---


def test_export_writes_a_model_and_its_card(trained: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["export", str(trained / CHECKPOINT), "tiny", "--folder", str(tmp_path)]
    measured = ["--clips", str(data), "--photos", str(data), "--frames", "4", "--reduce", "1"]
    assert main([*arguments, *measured]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.onnx", "tiny.toml"]
    card = cards.read_card(tmp_path / "tiny.toml")
    cards.verify(card)
    assert (card.scale, card.multiple_of, card.halo_px) == (2, 2, 6)
    assert card.train_data == "synthetic"
    names = {metric.name for metric in card.metrics}
    assert {"PSNR-Y", "PSNR-Y gain over lanczos", "SSIM-Y"} <= names


def test_a_card_has_the_curve_of_its_training(trained: Path, tmp_path: Path) -> None:
    logged = [json.loads(line) for line in (trained / LOG).read_text(encoding="utf-8").splitlines()]
    wanted = [(entry["step"], entry["gain_db"]) for entry in logged if "gain_db" in entry]
    assert [step for step, _ in wanted] == [4, 8, 12]
    export(trained / CHECKPOINT, "tiny", tmp_path)
    assert list(cards.read_card(tmp_path / "tiny.toml").curve) == wanted


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves are drawn by the train extra's matplotlib")
    picture = tmp_path / "curves.svg"
    assert main(["curves", str(picture)]) == 0
    drawn = picture.read_text(encoding="utf-8")
    assert all(name in drawn for name in ("x2-small-clean", "x1-medium"))
    assert "vivid" not in drawn


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    for wrong in (path, tmp_path / "missing.pt"):
        assert main(["export", str(wrong), "tiny", "--folder", str(tmp_path)]) == 1
        assert f"error: checkpoint {wrong} cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "tiny.onnx").exists()


# --- pools ---


def test_a_pool_is_the_same_for_a_seed_and_cached(data: Path, trained: Path, tmp_path: Path) -> None:
    recipe = load_config(trained / "tiny.toml").recipe
    cached, _ = make_pool(recipe, [data], trained)
    again, held_out = make_pool(recipe, [data], tmp_path, jobs=2)
    assert len(cached) == len(again) == 16
    assert len(held_out) == 4
    for index in range(len(again)):
        for ours, theirs in zip(cached.sample(index), again.sample(index), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_inputs_and_targets_of_a_pool_show_the_same_place(data: Path, trained: Path) -> None:
    patches, _ = make_pool(load_config(trained / "tiny.toml").recipe, [data], trained)
    here, shifted = [], []
    for index in range(len(patches)):
        low, high, _ = patches.sample(index)
        up = bicubic(low, 2)
        here.append(psnr(up, high, 8))
        shifted.append(psnr(np.roll(up, 1, axis=1), high, 8))
    assert np.mean(here) > np.mean(shifted)


# --- what cannot be used ---


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_complete(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.card.train_data
    assert config.card.licence


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 12", "stepps = 12", "[train] has unknown keys: stepps; known: steps, batch"),
        ("[pool]", "[poool]", "has unknown keys: poool; known: name, seed, shape"),
        ('name = "tiny"', "", 'has no key "name"'),
        ("steps = 12", 'steps = "many"', "steps is 'many'; it must be int"),
        ("steps = 12", "steps = 0", "steps is 0; must be at least 1"),
        ("steps = 12", 'loss = "l3"', "loss is 'l3'; allowed: l1, mse, balanced_mse, relative, relative_mse, logmse"),
        ("width = 8", "scale = 5", "scale is 5; allowed: 1, 2, 3, 4"),
        ("[card]", '[degrade]\npresets = ["warp"]\n[card]', "presets has unknown warp"),
        ("steps = 12", "steps =", "is not TOML"),
        ("steps = 12", "texture_weight = 1.0", "are for vivid networks"),
        ("2\n[train]", "2\nconditioned = true\nvivid = true\n[train]\nflicker_weight = 1.0", "successive = true"),
    ],
)
def test_wrong_configurations_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        load_config(write_config(tmp_path, (old, new)))


def test_frames_that_follow_each_other_need_an_even_batch(tmp_path: Path) -> None:
    changes = ("batch = 2", "batch = 3"), ("patch_px = 32", "patch_px = 32\nsuccessive = true")
    with pytest.raises(TrainingError, match=r"batch is 3; .* it must be even"):
        load_config(write_config(tmp_path, *changes))


def test_a_configuration_says_what_differs_from_its_base(tmp_path: Path) -> None:
    base = load_config(write_config(tmp_path))
    path = tmp_path / "other.toml"
    path.write_text('base = "tiny.toml"\nname = "other"\n[shape]\nwidth = 4\n[degrade]\nnoise_share = 0.5\n')
    other = load_config(path)
    assert other.shape == dataclasses.replace(base.shape, width=4)
    assert (other.name, other.train, other.degrade.noise_share) == ("other", base.train, 0.5)


def test_configurations_based_on_each_other_are_refused(tmp_path: Path) -> None:
    for one, two in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.toml").write_text(f'base = "{two}.toml"\nname = "{one}"\n')
    with pytest.raises(TrainingError, match=r"b\.toml is based on a\.toml, which is based on it"):
        load_config(tmp_path / "a.toml")


def test_a_missing_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_an_empty_data_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, empty = write_config(tmp_path), tmp_path / "empty"
    assert main(["train", str(config), "--data", str(empty), "--out", str(tmp_path / "out")]) == 1
    assert f"error: data folder {empty} does not exist" in capsys.readouterr().err
    empty.mkdir()
    assert main(["train", str(config), "--data", str(empty), "--out", str(tmp_path / "out")]) == 1
    assert f"error: no photographs or clips in {empty}" in capsys.readouterr().err


def test_a_tiny_photograph_is_an_error(data: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "tiny.png"), picture(0, 40, 50))
    config = load_config(write_config(tmp_path))
    with pytest.raises(TrainingError, match=r"tiny\.png is 50x40 px, sides of at least 64 are needed"):
        Trainer(config, [tmp_path], tmp_path / "out")


def test_a_corrupt_photograph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    with pytest.raises(TrainingError, match=r"broken\.jpg cannot be decoded"):
        read_photo(tmp_path / "broken.jpg")


def test_a_corrupt_clip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"garbage")
    config = load_config(write_config(tmp_path))
    with pytest.raises(TrainingError, match=r"broken\.mp4 cannot be decoded"):
        Scenes([], find_files([tmp_path])[1], config.scene)


def test_a_short_clip_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", frames=2)
    config = load_config(write_config(tmp_path))
    with pytest.raises(TrainingError, match=r"short\.mp4 gives 2 frames"):
        Scenes([], [tmp_path / "short.mp4"], config.scene)
