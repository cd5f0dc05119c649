"""Networks and their ONNX graphs; seconds, but it needs torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
pytest.importorskip("onnxruntime", reason="the extra `train` (onnxruntime) is not installed")

from onnx_models.errors import TrainingError  # noqa: E402
from onnx_models.export import check_parity  # noqa: E402
from onnx_models.graph import build_model, reference  # noqa: E402
from onnx_models.networks import Network, Shape  # noqa: E402
from onnx_models.quality import bicubic  # noqa: E402

pytestmark = pytest.mark.slow

SHAPES = [
    Shape(2, 8, 1, 1),
    Shape(2, 8, 1, 2, conditioned=True),
    Shape(2, 8, 1, 1, conditioned=True, vivid=True),
    Shape(1, 8, 1, 2),
    Shape(3, 8, 0, 1),
    Shape(4, 8, 1, 2),
]


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
    ("wrong", "message"),
    [
        ({"scale": 5}, "scale is 5"),
        ({"width": 0}, "width is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"vivid": True}, "must be conditioned"),
    ],
)
def test_shapes_that_cannot_be(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(**wrong)  # type: ignore[arg-type]  # out of range on purpose


def test_a_conditioned_network_begins_as_the_one_it_comes_from() -> None:
    torch.manual_seed(0)
    blind, told, larger = (Network(shape) for shape in (Shape(2, 8, 1, 1), Shape(2, 8, 1, 1, True), Shape(3, 8, 1, 1)))
    assert set(told.adopt(blind.shape, blind.state_dict())) == set(blind.state_dict())
    luma = torch.rand(1, 1, 24, 24)
    for level in (0.0, 0.7):
        torch.testing.assert_close(told(luma, levels=torch.tensor([[level, level]])), blind(luma), rtol=0, atol=1e-6)
    taken = larger.adopt(blind.shape, blind.state_dict())
    assert set(blind.state_dict()) - set(taken) == {"convs.2.matrix", "convs.2.bias"}


def test_a_network_of_another_unshuffle_has_nothing_to_give() -> None:
    """Its planes of level and noise would be taken for pixels: 1 + 2 channels are fewer than 4 + 2."""
    fine, coarse = (Network(Shape(2, 8, 1, unshuffle, conditioned=True)) for unshuffle in (1, 2))
    before = {name: values.clone() for name, values in coarse.state_dict().items()}
    assert coarse.adopt(fine.shape, fine.state_dict()) == []
    assert all(torch.equal(before[name], values) for name, values in coarse.state_dict().items())


def test_strength_leads_from_the_interpolation_over_the_faithful_picture_to_the_vivid_one() -> None:
    torch.manual_seed(0)
    network = Network(Shape(2, 8, 1, 1, conditioned=True, vivid=True))
    luma, levels = torch.rand(1, 1, 24, 24), torch.tensor([[0.3, 0.1]])
    interpolated = network.interpolate(luma)
    faithful, vivid = (network.residual(luma, levels, torch.tensor([vividness])) for vividness in (0.0, 1.0))
    half = network.residual(luma, levels, torch.tensor([0.5]))
    assert not torch.equal(faithful, vivid)
    expected = {0.0: 0 * faithful, 0.25: faithful / 2, 0.5: faithful, 0.75: half, 1.0: vivid, 1.5: 1.5 * vivid}
    for strength, residual in expected.items():
        torch.testing.assert_close(network(luma, strength, levels), interpolated + residual)


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
