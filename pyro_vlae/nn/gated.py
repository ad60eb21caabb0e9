"""The gated residual block of PixelCNN++.

References:
    Salimans et al., "PixelCNN++", 2017, arXiv:1701.05517, and its published code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.resnet import BRANCH_INIT_SCALE
from pyro_vlae.nn.weight_norm import WeightNormConv2d, WeightNormLayer


class GatedBlock(nn.Module):
    """A residual block whose branch is gated and conditioned on other features at the same pixel.

    ``h + value * sigmoid(gate)`` with ``(value, gate) = second(elu(first(elu(h)) + link(other)))``.

    Args:
        first: the layer that mixes pixels, or maps only; it keeps their number.
        filters: maps of h.
        other_channels: maps of the other features, 0 for none.

    Shapes: ``(N, filters, H, W)`` and others ``(N, *, H, W)`` to ``(N, filters, H, W)``.
    """

    def __init__(self, first: WeightNormLayer, filters: int, other_channels: int) -> None:
        super().__init__()
        self.first = first
        self.link = WeightNormConv2d(other_channels, filters, 1) if other_channels else None
        self.second = WeightNormConv2d(filters, 2 * filters, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, h: Tensor, others: Sequence[Tensor]) -> Tensor:
        branch = self.first(F.elu(h))
        if self.link is not None:
            branch = branch + self.link(torch.cat(list(others), 1))
        value, gate = self.second(F.elu(branch)).chunk(2, 1)
        return h + value * gate.sigmoid()
