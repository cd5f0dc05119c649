"""Training, degradation and export, on synthesised material; seconds, but it needs torch."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
pytest.importorskip("onnxruntime", reason="the extra `train` (onnxruntime) is not installed")

from onnx_models import cards, degrade  # noqa: E402
from onnx_models.__main__ import main  # noqa: E402
from onnx_models.checkpoint import load_checkpoint  # noqa: E402
from onnx_models.codecs import Coding  # noqa: E402
from onnx_models.config import load_config  # noqa: E402
from onnx_models.errors import TrainingError  # noqa: E402
from onnx_models.export import check_parity, export  # noqa: E402
from onnx_models.graph import build_model, reference  # noqa: E402
from onnx_models.kernels import reduction_taps  # noqa: E402
from onnx_models.networks import Network, Shape  # noqa: E402
from onnx_models.pool import make_pool  # noqa: E402
from onnx_models.quality import bicubic, psnr  # noqa: E402
from onnx_models.scenes import Scenes, find_files, read_photo  # noqa: E402
from onnx_models.train import CHECKPOINT, LOG, SHEET, Place, Trainer  # noqa: E402

if TYPE_CHECKING:
    from onnx_models.scenes import Planes

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(cards.__file__).parent / "configs").glob("*.toml"))
PLAIN = degrade.Degradation(2, "bicubic", 0.0, 0, 0.0, 0.0, False, 0.0, 0.0, ())
SHAPES = [
    Shape(2, 8, 1, 1),
    Shape(2, 8, 1, 2, conditioned=True),
    Shape(1, 8, 1, 2),
    Shape(3, 8, 0, 1),
    Shape(4, 8, 1, 2),
]
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


def picture(seed: int, height: int = 160, width: int = 200) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Overlapping ellipses: edges, flat areas, some colour."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), 120, np.uint8)
    for _ in range(40):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(3, 30)), int(rng.integers(3, 30)))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return canvas


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
    plan = "judge_weight = 0.01\ngradient_weight = 0.5\ngain_min_db = -99.0\nassert_after = 1"
    place = Place(pool_dir=trained, threads=1)

    def train(steps: int, out: Path) -> dict[str, Any]:
        config = load_config(write_config(tmp_path, ("assert_after = 1000", plan), ("steps = 12", f"steps = {steps}")))
        checkpoint = load_checkpoint(Trainer(config, [data], out, place=place).run())
        assert checkpoint.judge is not None
        weights: dict[str, Any] = checkpoint.judge["net"] | checkpoint.network
        return weights

    whole = train(8, tmp_path / "whole")
    half = train(4, tmp_path / "halves")
    again = train(8, tmp_path / "halves")
    assert any(not torch.equal(half[name], again[name]) for name in half if "first" in name)
    assert whole.keys() == again.keys()


def test_other_scales_train_and_export(trained: Path, data: Path, tmp_path: Path) -> None:
    shape = ("unshuffle = 2", "unshuffle = 1\nscale = 3\nconditioned = true")
    config = write_config(tmp_path, shape, ("crop_px = 24", "crop_px = 12"), ("patch_px = 32", "patch_px = 16"))
    card = export(Trainer(load_config(config), [data], tmp_path / "out").run(), "other", tmp_path)
    assert (card.scale, card.conditioned) == (3, True)
    change = ("width = 8\n", "width = 6\nscale = 3\n")
    start = write_config(tmp_path, change, ("crop_px = 24", "crop_px = 12"), ("patch_px = 32", "patch_px = 16"))
    with pytest.raises(TrainingError, match="no layer of"):
        Trainer(load_config(start), [data], tmp_path / "new", trained / CHECKPOINT)


def test_a_conditioned_network_begins_as_the_one_it_comes_from() -> None:
    torch.manual_seed(0)
    blind, told, larger = (Network(shape) for shape in (Shape(2, 8, 1, 1), Shape(2, 8, 1, 1, True), Shape(3, 8, 1, 1)))
    assert set(told.adopt(blind.state_dict())) == set(blind.state_dict())
    luma = torch.rand(1, 1, 24, 24)
    for level in (0.0, 0.7):
        torch.testing.assert_close(told(luma, levels=torch.tensor([[level, level]])), blind(luma), rtol=0, atol=1e-6)
    assert set(blind.state_dict()) - set(larger.adopt(blind.state_dict())) == {"convs.2.matrix", "convs.2.bias"}


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


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"x{shape.scale}-{shape}")
def test_every_back_end_computes_what_torch_does(shape: Shape) -> None:
    torch.manual_seed(0)
    network = Network(shape)
    shares = check_parity(build_model(network, "random"), network)
    assert set(shares) == {"ONNX Runtime", "OpenVINO"}


def test_a_back_end_that_differs_is_noticed() -> None:
    torch.manual_seed(0)
    network = Network(SHAPES[0])
    model = build_model(network, "random")
    with torch.no_grad():
        network.layers[0].matrix.mul_(3)
    with pytest.raises(TrainingError, match="differs from torch by up to"):
        check_parity(model, network)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    for wrong in (path, tmp_path / "missing.pt"):
        assert main(["export", str(wrong), "tiny", "--folder", str(tmp_path)]) == 1
        assert f"error: checkpoint {wrong} cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "tiny.onnx").exists()


# --- networks ---


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"x{shape.scale}-{shape}")
def test_a_shape_says_what_the_network_is(shape: Shape) -> None:
    network = Network(shape)
    assert shape.params == sum(parameter.numel() for parameter in network.parameters())
    luma = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    out = reference(network, luma, 1.0)
    assert out.shape == (24 * shape.scale, 32 * shape.scale)
    np.testing.assert_array_equal(reference(network, luma, 0.0), bicubic(luma, shape.scale))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"x{shape.scale}-{shape}")
def test_nothing_beyond_the_halo_is_seen(shape: Shape) -> None:
    torch.manual_seed(0)
    network, halo = Network(shape), shape.halo_px
    side = 4 * halo + 4 * shape.unshuffle
    luma = torch.rand(1, 1, side, side)
    changed = luma.clone()
    changed[..., : side // 2 - side // 2 % shape.unshuffle, :] = 0
    with torch.no_grad():
        levels = torch.tensor([[0.5, 0.2]])
        differs = (network(luma, levels=levels) != network(changed, levels=levels)).any(dim=3)[0, 0]
    border = (side // 2 - side // 2 % shape.unshuffle + halo) * shape.scale
    assert differs[: border - halo * shape.scale].any()
    assert not differs[border:].any()


@pytest.mark.parametrize(
    ("wrong", "message"), [({"scale": 5}, "scale is 5"), ({"width": 0}, "width is 0"), ({"depth": -1}, "depth is -1")]
)
def test_shapes_that_cannot_be(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(**wrong)  # type: ignore[arg-type]  # out of range on purpose


# --- degradation ---


def sequence(frames: int = 4) -> list[Planes]:
    luma = cv2.cvtColor(picture(5, 96, 128), cv2.COLOR_BGR2GRAY)
    grey = np.full((48, 64), 128, np.uint8)
    return [(np.roll(luma, 2 * t, axis=1), grey, grey) for t in range(frames)]


def test_degradations_are_seeded_and_recorded() -> None:
    mix = degrade.DegradeMix(noise_share=1.0, uncompressed_share=0.0)
    results = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        how = degrade.draw(mix, 2, rng)
        results.append((how, degrade.degrade(sequence(), how, rng)))
    assert results[0][0] == results[1][0]
    assert results[0][0].noise_sigma > 0
    np.testing.assert_array_equal(results[0][1].lumas, results[1][1].lumas)
    np.testing.assert_array_equal(results[0][1].targets, results[1][1].targets)
    assert results[0][1].level == results[1][1].level > 0
    assert results[0][1].noise == results[1][1].noise
    assert results[0][1].lumas[0].shape == (48, 64)


def test_a_brighter_exposure_brightens_input_and_target() -> None:
    how = dataclasses.replace(PLAIN, exposure=0.5)
    received = degrade.degrade(sequence(4), how, np.random.default_rng(0))
    for lumas in (received.lumas, received.targets):
        means = [luma.mean() for luma in lumas]
        assert means == sorted(means)
        assert means[-1] > means[0] + 10


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, 0.7])
def test_motion_blurs_along_its_direction(angle: float) -> None:
    dot = np.zeros((32, 32), np.uint8)
    dot[16, 16] = 255
    grey = np.full((16, 16), 128, np.uint8)
    how = dataclasses.replace(PLAIN, scale=1, motion_blur_px=6, motion_angle=angle)
    seen = degrade.degrade([(dot, grey, grey)], how, np.random.default_rng(0)).lumas[0].astype(float)
    rows, cols = np.indices(seen.shape) - 16
    along = cols * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - cols * np.sin(angle)
    assert abs((seen * along).sum() / seen.sum()) < 0.3
    assert (seen * along**2).sum() > 5 * (seen * across**2).sum()


def test_sharpening_overshoots() -> None:
    luma = np.full((64, 64), 100, np.uint8)
    luma[:, 32:] = 150
    grey = np.full((32, 32), 128, np.uint8)
    received = degrade.degrade([(luma, grey, grey)], dataclasses.replace(PLAIN, sharpen=1.0), np.random.default_rng(0))
    assert received.lumas[0].min() < 95
    assert received.lumas[0].max() > 155
    assert received.level == 0


def test_compression_raises_the_level_and_leaves_less_of_the_noise() -> None:
    def levels(noise: float, *codings: Coding) -> tuple[float, float]:
        how = dataclasses.replace(PLAIN, noise_sigma=noise, codings=codings)
        received = degrade.degrade(sequence(), how, np.random.default_rng(0))
        return received.level, received.noise

    once, heavy = Coding("jpeg", 60), Coding("h264", 35)
    assert levels(0) == (0, 0)
    assert levels(0, once)[0] < levels(0, once, once)[0] < levels(0, once, heavy)[0]
    assert levels(0, heavy)[1] == 0
    assert levels(4)[0] == 0
    assert levels(2)[1] < levels(4)[1]
    assert levels(4, heavy)[1] < levels(4, once)[1] <= levels(4)[1]


@pytest.mark.parametrize("kind", degrade.KERNELS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reductions_keep_mean_and_position(kind: str, scale: int) -> None:
    taps, anchor = reduction_taps(degrade.KERNELS[kind], scale)
    assert taps.sum() == pytest.approx(1, abs=1e-6)
    offsets = np.arange(len(taps)) - anchor
    assert (offsets * taps).sum() == pytest.approx((scale - 1) / 2, abs=1e-6)
    ramp = np.tile(np.arange(24 * scale, dtype=np.float32), (24 * scale, 1))
    reduced = degrade.reduce_luma(ramp, scale, kind)
    expected = np.arange(24) * scale + (scale - 1) / 2
    np.testing.assert_allclose(reduced[8, 8:16], expected[8:16], atol=1e-2)


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
        ("steps = 12", 'loss = "l3"', "loss is 'l3'; allowed: l1, relative, relative_mse, logmse"),
        ("width = 8", "scale = 5", "scale is 5; allowed: 1, 2, 3, 4"),
        ("[card]", '[degrade]\npresets = ["warp"]\n[card]', "presets has unknown warp"),
        ("steps = 12", "steps =", "is not TOML"),
    ],
)
def test_wrong_configurations_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        load_config(write_config(tmp_path, (old, new)))


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


def test_a_crop_larger_than_the_patches_is_an_error(data: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, ("crop_px = 24", "crop_px = 48")))
    with pytest.raises(TrainingError, match="crop_px 48 exceeds"):
        Trainer(config, [data], tmp_path / "out")
