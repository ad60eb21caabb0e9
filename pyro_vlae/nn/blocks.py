"""Building blocks of the networks: residual, dense, pointwise, and gated.

References:
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix B (residual blocks).
    Huang et al., "Densely Connected Convolutional Networks", 2016, arXiv:1608.06993.
    Salimans et al., "PixelCNN++", 2017, arXiv:1701.05517 (gated blocks).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.weight_norm import (
    BRANCH_INIT_SCALE,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLayer,
    image_layout,
)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with an ELU before each, added to a skip connection.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        resample: ``"down"`` halves the size (stride 2), ``"up"`` doubles it (transposed), ``None``
            keeps it. If the shape changes, the skip connection is a convolution of the same stride.
        output_padding: with ``"up"``, (rows, columns) added to ``2 size - 1``, each 0 or 1.
        dropout: probability of dropping an input of the second convolution in training.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, H', W')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resample: Literal["down", "up"] | None = None,
        output_padding: tuple[int, int] = (1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.skip: nn.Module
        if resample == "up":
            self.first: nn.Module = WeightNormConvTranspose2d(
                in_channels, out_channels, output_padding
            )
            self.skip = WeightNormConvTranspose2d(in_channels, out_channels, output_padding)
        elif resample == "down":
            self.first = WeightNormConv2d(in_channels, out_channels, stride=2)
            self.skip = WeightNormConv2d(in_channels, out_channels, stride=2)
        else:
            self.first = WeightNormConv2d(in_channels, out_channels)
            same = in_channels == out_channels
            self.skip = nn.Identity() if same else WeightNormConv2d(in_channels, out_channels, 1)
        self.second = WeightNormConv2d(out_channels, out_channels, init_scale=BRANCH_INIT_SCALE)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = image_layout(x)
        # In place, an ELU keeps its output for the backward pass, which then needs no exponentials.
        h = F.elu(self.first(F.elu(x)), inplace=True)
        return self.skip(x) + self.second(self.dropout(h))


class DenseBlock(nn.Module):
    """Three 3x3 convolutions, each of which reads all previous channels and appends new ones.

    Args:
        in_channels: channels of the input.
        growth: channels that each convolution appends.

    Shapes: ``(N, in_channels, H, W) -> (N, in_channels + 3 growth, H, W)``.
    """

    LAYERS = 3

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            WeightNormConv2d(in_channels + k * growth, growth) for k in range(self.LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = image_layout(x)
        for layer in self.layers:
            x = torch.cat([x, layer(F.elu(x))], 1)
        return x


class PointwiseBlock(nn.Module):
    """A residual block of two 1x1 convolutions, which mixes channels but not pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = WeightNormConv2d(channels, channels, 1)
        self.second = WeightNormConv2d(channels, channels, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.elu(self.first(F.elu(x))))


class GatedBlock(nn.Module):
    """A residual block whose branch is gated and conditioned on other features at the same pixel.

    ``h + value * sigmoid(gate)`` with ``(value, gate) = second(elu(first(elu(h)) + link(other)))``.

    Args:
        first: a convolution that keeps the number of channels and the size of the image.
        channels: channels of h.
        other_channels: channels of the other features, 0 for none.

    Shapes: h ``(N, channels, H, W)`` and others ``(N, *, H, W)`` to ``(N, channels, H, W)``.
    """

    def __init__(self, first: WeightNormLayer, channels: int, other_channels: int) -> None:
        super().__init__()
        self.first = first
        self.link = WeightNormConv2d(other_channels, channels, 1) if other_channels else None
        self.second = WeightNormConv2d(channels, 2 * channels, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, h: Tensor, others: Sequence[Tensor]) -> Tensor:
        branch = self.first(F.elu(h))
        if self.link is not None:
            branch = branch + self.link(torch.cat(list(others), 1))
        value, gate = self.second(F.elu(branch)).chunk(2, 1)
        return h + value * gate.sigmoid()
