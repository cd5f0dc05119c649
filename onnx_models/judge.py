"""The judge of vivid networks: learns, beside the network, to tell enhanced pictures from real ones.

A U-Net that judges every place of a picture by itself, with spectral normalisation (Schönfeld et al., "A U-Net Based
Discriminator for Generative Adversarial Networks", CVPR 2020; Wang et al., "Real-ESRGAN", ICCVW 2021) and the hinge
loss (Lim and Ye, "Geometric GAN", 2017). It also sees the interpolated input, so that what is invented must fit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 12
RATE = 4e-4
SLOPE = 0.2


class _Net(nn.Module):
    """Pictures and their interpolated inputs `[N,1,H,W]` to scores `[N,1,H/2,W/2]`; sides are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int, side: int = 3, stride: int = 1) -> nn.Module:
            return spectral_norm(nn.Conv2d(c_in, c_out, side, stride, 1, bias=False))

        self.first = nn.Conv2d(8, WIDTH, 3, padding=1)
        self.down = conv(WIDTH, 2 * WIDTH, 4, 2)
        self.deeper = conv(2 * WIDTH, 4 * WIDTH, 4, 2)
        self.bottom = conv(4 * WIDTH, 4 * WIDTH)
        self.up = conv(4 * WIDTH, 2 * WIDTH)
        self.higher = conv(2 * WIDTH, WIDTH)
        self.last = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, picture: Tensor, interpolated: Tensor) -> Tensor:
        def active(x: Tensor) -> Tensor:
            return functional.leaky_relu(x, SLOPE)

        def doubled(x: Tensor) -> Tensor:
            return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        both = torch.cat([picture - interpolated, interpolated - 0.5], dim=1)
        full = active(self.first(functional.pixel_unshuffle(both, 2)))
        half = active(self.down(full))
        quarter = active(self.bottom(active(self.deeper(half))))
        half = half + active(self.up(doubled(quarter)))
        full = full + active(self.higher(doubled(half)))
        scores: Tensor = self.last(full)
        return scores


class Judge:
    """The judging network and its optimiser.

    Args:
        device: as torch calls it.
        rough: run its layers in bfloat16.
    """

    def __init__(self, device: str, *, rough: bool) -> None:
        self._net = _Net().to(device)
        self._optimiser = torch.optim.Adam(self._net.parameters(), lr=RATE, betas=(0.0, 0.99))
        self._device, self._rough = device, rough

    def _scores(self, picture: Tensor, interpolated: Tensor) -> Tensor:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._rough):
            scores: Tensor = self._net(picture, interpolated)
        return scores.float()

    def displeasure(self, enhanced: Tensor, interpolated: Tensor, weights: Tensor) -> Tensor:
        """What the enhancing network is to make small: a mean around -1 to 1, each picture counted by its weight."""
        self._net.requires_grad_(requires_grad=False)
        return -(weights * self._scores(enhanced, interpolated).mean(dim=(1, 2, 3))).mean()

    def learn(self, enhanced: Tensor, real: Tensor, interpolated: Tensor, weights: Tensor) -> float:
        """One step of its own; returns its hinge loss (2: it can't tell, 0: it always can)."""
        self._net.requires_grad_(requires_grad=True)
        self._optimiser.zero_grad(set_to_none=True)
        of_real = self._scores(real, interpolated)
        of_enhanced = self._scores(enhanced.detach(), interpolated)
        missed = functional.relu(1 + of_enhanced).mean(dim=(1, 2, 3))
        loss = functional.relu(1 - of_real).mean() + (weights * missed).sum() / weights.sum().clamp_min(1)
        torch.autograd.backward(loss)
        self._optimiser.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"net": self._net.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._net.load_state_dict(state["net"])
        self._optimiser.load_state_dict(state["optimiser"])
