"""Torch definitions: a chain of 3x3 convolutions that adds detail to a bicubic interpolation.

`wW dD uU` reads: pixel-unshuffle(U), conv3x3 to W channels, D times conv3x3 (W to W), conv3x3 to
(scale * U)^2 channels, pixel-shuffle. The result is a residual over the interpolated input
(global residual: Kim et al., "Accurate Image Super-Resolution Using Very Deep Convolutional
Networks", CVPR 2016; sub-pixel output: Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnx_models.kernels import CUBIC_RADIUS, phase_taps
from onnx_models.limits import ANY_SIZE, COUNT, check

if TYPE_CHECKING:
    from collections.abc import Mapping

SKIP_RADIUS = CUBIC_RADIUS
LEVELS = 2
"""Level and noise, see `onnx_models.level`."""


@dataclass(frozen=True)
class Shape:
    """What a network looks like; everything needed to build it again."""

    scale: int = 2
    """Output size over input size: 1 (restore), 2, 3 or 4."""
    width: int = 16
    """Channels between the first and the last convolution."""
    depth: int = 2
    """Number of width-to-width convolutions."""
    unshuffle: int = 1
    """Space-to-depth factor in front; input sizes must be multiples of it."""
    conditioned: bool = False
    """Whether the first convolution also sees two planes, which hold level and noise."""
    vivid: bool = False
    """Whether it sees a third one, which holds how vivid the picture is to be (see `blend`)."""

    def __post_init__(self) -> None:
        if self.vivid and not self.conditioned:
            raise ValueError("a vivid network must be conditioned, too")
        if self.scale not in (1, 2, 3, 4):
            raise ValueError(f"scale is {self.scale}; allowed: 1, 2, 3, 4")
        check(self, {"width": COUNT, "depth": ANY_SIZE, "unshuffle": COUNT})

    @property
    def conditions(self) -> int:
        """Planes beside the picture."""
        return LEVELS * self.conditioned + self.vivid

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(input channels, output channels) of every 3x3 convolution, first to last."""
        inner = [(self.width, self.width)] * self.depth
        first = (self.unshuffle**2 + self.conditions, self.width)
        last = (self.width, self.factor**2)
        return (first, *inner, last)

    @property
    def factor(self) -> int:
        """Of the pixel-shuffle at the end."""
        return self.scale * self.unshuffle

    @property
    def tail_block(self) -> int:
        """Side of the blocks in which an exported model computes its last convolution (see `graph.in_blocks`)."""
        return 2 if self.factor == 2 else 1

    @property
    def multiple_of(self) -> int:
        """Sides of an exported model's input are multiples of this."""
        return self.unshuffle * self.tail_block

    @property
    def params(self) -> int:
        """Weights and biases that are learnt."""
        return sum(9 * c_in * c_out + c_out for c_in, c_out in self.layers)

    @property
    def macs_per_px(self) -> int:
        """Multiply-accumulates per input pixel, the interpolation's own taps included."""
        learnt = sum(9 * c_in * c_out for c_in, c_out in self.layers)
        taps = (2 * SKIP_RADIUS + 1) ** 2
        return round(learnt / self.unshuffle**2) + (taps * self.scale**2 if self.scale > 1 else 0)

    @property
    def halo_px(self) -> int:
        """Input pixels around a tile that can change its output, a multiple of `multiple_of`."""
        reach = max(len(self.layers) * self.unshuffle, SKIP_RADIUS if self.scale > 1 else 0)
        return math.ceil(reach / self.multiple_of) * self.multiple_of

    def __str__(self) -> str:
        told = f"{'-level' if self.conditioned else ''}{'-vivid' if self.vivid else ''}"
        return f"w{self.width}d{self.depth}u{self.unshuffle}{told}"


def blend(strength: float) -> tuple[float, float]:
    """What `strength` means to a vivid network: the gain of its residual, and the vividness that it is told.

    From the interpolation (0) over the faithful picture (0.5) to the vivid one (1), and beyond.
    """
    return max(min(2 * strength, 1.0), strength), min(max(2 * strength - 1, 0.0), 1.0)


def bicubic_kernel(scale: int) -> Tensor:
    """Bicubic interpolation as a convolution: float32 `[scale^2, 1, 5, 5]`, one kernel a phase.

    Output pixel (scale * y + i, scale * x + j) is kernel `scale * i + j` at input pixel (y, x);
    half-pixel convention.
    """
    rows = torch.from_numpy(phase_taps(scale))
    kernel = torch.einsum("iy,jx->ijyx", rows, rows)
    return kernel.reshape(scale**2, 1, *kernel.shape[2:]).float()


def block_bicubic_kernel(scale: int, block: int) -> Tensor:
    """The same interpolation by blocks of input pixels: float32 `[(s*b)^2, 1, b + 4, b + 4]`.

    For a convolution with stride `block`: output channel `(s * b) * i + j` is pixel (i, j) of the
    `s * b` output pixels of a block, in the order of a pixel-shuffle by `s * b`.
    """
    plain = bicubic_kernel(scale).view(scale, scale, 5, 5)
    side = scale * block
    kernel = torch.zeros(side, side, block + 4, block + 4)
    for i, j in itertools.product(range(side), repeat=2):
        y, x = i // scale, j // scale
        kernel[i, j, y : y + 5, x : x + 5] = plain[i % scale, j % scale]
    return kernel.reshape(side**2, 1, block + 4, block + 4)


class Conv3x3(nn.Module):
    """3x3 convolution, zero padding, whose weight is a matrix (the form Muon optimises).

    A layer that keeps the number of channels starts as identity plus noise, so that a deep narrow
    chain passes its input on from the first step.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.c_in, self.c_out = c_in, c_out
        bound = 1 / math.sqrt(9 * c_in)
        kernel = torch.empty(c_out, c_in, 3, 3).uniform_(-bound, bound)
        if c_in == c_out:
            kernel += nn.init.dirac_(torch.empty_like(kernel))
        self.matrix = nn.Parameter(kernel.reshape(c_out, 9 * c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def kernel(self) -> Tensor:
        """The weight as `[c_out, c_in, 3, 3]`."""
        return self.matrix.view(self.c_out, self.c_in, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel(), self.bias, padding=1)


class Network(nn.Module):
    """`output = interpolation + strength * residual`, on luma; in a vivid network `strength` also shapes the residual.

    Re-parameterised branches (Zhang et al., "Edge-oriented Convolution Block", ACM MM 2021) gained nothing here with
    Muon as optimiser: 33.48 against 33.55 dB (w30d2u2) and 33.66 against 33.70 dB (w16d2u1) after 6,000 steps.

    Args:
        shape: what to build.
    """

    skip: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = [Conv3x3(c_in, c_out) for c_in, c_out in shape.layers]
        self.convs = nn.ModuleList(self.layers)
        self.register_buffer("skip", bicubic_kernel(shape.scale), persistent=False)
        # Start close to the interpolation. At the same size even a little noise is worse than nothing, and a network
        # that first learns to be silent loses its activations and stays so.
        start = 0.1 if shape.scale > 1 else 0.0
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(start)

    @torch.no_grad()
    def adopt(self, shape: Shape, state: Mapping[str, Tensor]) -> list[str]:
        """Begin with the weights of another network of that shape, as far as they fit.

        Of one with another `unshuffle` nothing does: its channels mean other things, whatever their number. A first
        convolution with fewer inputs is taken over with zeros for the new ones (a network that learns to be
        conditioned); other layers of another size stay as they are (another scale has another last layer).

        Returns:
            Names of the parameters that were taken over.
        """
        if shape.unshuffle != self.shape.unshuffle:
            return []
        taken = []
        for name, own in self.state_dict().items():
            given = state.get(name)
            if given is not None and given.shape == own.shape:
                own.copy_(given)
            elif given is not None and name == "convs.0.matrix" and given.shape[1] < own.shape[1]:
                own.zero_()
                own[:, : given.shape[1]] = given  # input channels are the slowest within a row
            else:
                continue
            taken.append(name)
        return taken

    def interpolate(self, luma: Tensor) -> Tensor:
        """Bicubic interpolation with replicated borders: `[N,1,H,W]` to `[N,1,sH,sW]`."""
        if self.shape.scale == 1:
            return luma
        padded = functional.pad(luma, (SKIP_RADIUS,) * 4, mode="replicate")
        return functional.pixel_shuffle(functional.conv2d(padded, self.skip), self.shape.scale)

    def residual(self, luma: Tensor, levels: Tensor | None = None, vividness: Tensor | None = None) -> Tensor:
        """What the network adds: `[N,1,H,W]` (and levels `[N,2]`, vividness `[N]` from 0 to 1) to `[N,1,sH,sW]`."""
        x = self._first_input(luma, levels, vividness)
        *inner, last = self.layers
        for conv in inner:
            x = functional.relu(conv(x))
        out: Tensor = last(x)
        return functional.pixel_shuffle(out, self.shape.factor)

    def peaks(self, luma: Tensor, levels: Tensor | None = None) -> list[float]:
        """The largest input of every convolution on a batch, which is what 8-bit integers must reach.

        The first one's is 1 by definition, no input is negative.
        """
        if self.shape.vivid:  # both ends of the blend, in one batch
            assert levels is not None
            vividness = torch.tensor([0.0, 1.0], device=luma.device).repeat_interleave(len(luma))
            x = self._first_input(luma.repeat(2, 1, 1, 1), levels.repeat(2, 1), vividness)
        else:
            x = self._first_input(luma, levels, None)
        found = [1.0]
        for conv in self.layers[:-1]:
            x = functional.relu(conv(x))
            found.append(float(x.max()))
        return found

    def _first_input(self, luma: Tensor, levels: Tensor | None, vividness: Tensor | None) -> Tensor:
        x = functional.pixel_unshuffle(luma, self.shape.unshuffle)
        if not self.shape.conditioned:
            return x
        assert levels is not None
        told = levels
        if self.shape.vivid:
            assert vividness is not None
            told = torch.cat([levels, vividness[:, None]], dim=1)
        planes = told[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes], dim=1)

    def forward(self, luma: Tensor, strength: float = 1.0, levels: Tensor | None = None) -> Tensor:
        """Enhance a batch.

        Args:
            luma: float32 `[N,1,H,W]`, 0..1 over the code values; H and W multiples of `unshuffle`.
            strength: 0 is the interpolation, 1 the network; of a vivid one see `blend`.
            levels: float32 `[N,2]`, level and noise, 0..1; only a conditioned network needs them.

        Returns:
            float32 `[N,1,scale*H,scale*W]`, not clipped.
        """
        return self.interpolate(luma) + self.detail(luma, strength, levels)

    def detail(self, luma: Tensor, strength: float = 1.0, levels: Tensor | None = None) -> Tensor:
        """What a strength adds to the interpolation; arguments as for `forward`."""
        if not self.shape.vivid:
            return strength * self.residual(luma, levels)
        gain, vividness = blend(strength)
        return gain * self.residual(luma, levels, torch.full((len(luma),), vividness, device=luma.device))
