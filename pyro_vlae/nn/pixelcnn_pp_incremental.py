"""`ColorPixelCNN` evaluated pixel by pixel and channel by channel, each feature computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import GatedBlock
from pyro_vlae.nn.two_stack import HORIZONTAL_TAPS, ShiftedConv2d, VerticalRun
from pyro_vlae.nn.wavefront import by_pixel
from pyro_vlae.nn.weight_norm import WeightNormConv2d

if TYPE_CHECKING:
    from pyro_vlae.nn.pixelcnn_pp import ColorPixelCNN

Matrix = tuple[Tensor, Tensor]  # weight (out, in) and bias, for features in the last dimension


class IncrementalColor(VerticalRun):
    """One run of a `ColorPixelCNN` over images whose pixels become known in wavefronts.

    For every wavefront `parameters` and `write` are called once per channel: red first, then, its
    value being known, green, then blue. As in `IncrementalTwoStack`, the vertical stack runs ahead.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: ColorPixelCNN,
        context: Tensor | None,
        size: int,
        height: int,
        width: int,
    ) -> None:
        like, levels = network.first_vertical.bias, len(network.vertical) + 1
        super().__init__(like, size, height, width, levels, filters=len(like))
        self.network = network
        self.context = [] if context is None else [by_pixel(context)]  # (H * W, N, K), if any
        self.first_vertical = _matrix(network.first_vertical)
        self.first_in_group = [_matrix(layer) for layer in network.first_in_group]
        self.vertical = [_BlockMatrices(block) for block in network.vertical]
        groups = cast("list[nn.ModuleList]", network.groups)
        self.groups = [[_BlockMatrices(block) for block in group] for group in groups]
        self.last = [_matrix(layer) for layer in network.last]
        self.vertical_taps = network.first_vertical.taps()
        self.horizontal_taps = cast(ShiftedConv2d, network.first_in_group[0]).taps()
        seen = network.first_vertical.direction.shape[1]
        self.image = self.cache(seen, self.vertical_taps + self.horizontal_taps)
        self.left = [
            self.cache(self.filters, HORIZONTAL_TAPS) for _ in range(1, network.horizontal_layers)
        ]
        # Of the wavefront at hand: the channel to come, what was written, what blocks are linked to
        self.channel = 0
        self.written = like.new_zeros(0, network.image_channels)
        self.known: list[list[Tensor]] = []
        self.shares: list[Tensor] = []

    @torch.no_grad()
    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Parameters of P pixels, ``(N, 12 mixtures, 1, P)``, right up to the channel to come.

        Those of later channels, which depend on its value, are zero.
        """
        if self.channel == 0:
            self._begin()
            own = self.image.read(self.time, self.rows, self.horizontal_taps)
        else:
            own = self.written[:, : self.channel]
            own = torch.cat([own, torch.ones_like(own[:, :1])], -1)
        h = F.linear(own, *self.first_in_group[self.channel])
        for k, block in enumerate(self.groups[self.channel]):
            inputs = F.elu(h)
            if self.channel == 0 and 1 <= k <= len(self.left):
                left = self.left[k - 1]
                left.write(self.time, self.rows).copy_(self.by_image(inputs))
                inputs = left.read(self.time, self.rows, HORIZONTAL_TAPS)
            h = block(h, inputs, self.known[k])
            self.known[k].append(F.elu(h))
        self.shares[self.channel] = F.linear(F.elu(h), *self.last[self.channel])
        return self.as_parameters(torch.cat(self.shares, -1))

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make values ``(N, 3, 1, P)`` of P pixels known, up to the channel that was to come."""
        self.written = pixels.squeeze(2).permute(2, 0, 1).flatten(0, 1)
        self.channel += 1
        if self.channel == self.network.image_channels:
            self.channel = 0
            seen = self.network.seen(pixels).squeeze(2).permute(2, 0, 1)
            self.image.write(self.time, self.rows).copy_(seen)

    def _begin(self) -> None:
        """Go on to a new wavefront."""
        self.next_front()
        maps, levels = self._context_at(self.time, self.rows), self.vertical_at_pixel()
        last = len(levels) - 1
        self.known = [[*maps, levels[min(k, last)]] for k in range(len(self.groups[0]))]
        self.shares = [bias.new_zeros(len(levels[0]), len(bias)) for _, bias in self.last]

    def vertical_features(self, level: int, time: int, rows: range) -> Tensor:
        """See `VerticalRun`."""
        if level == 0:
            return F.linear(self.image.read(time, rows, self.vertical_taps), *self.first_vertical)
        raw, taps = self.vertical_inputs(level, time, rows)
        return self.vertical[level - 1](raw, taps, self._context_at(time, rows))

    def _context_at(self, time: int, rows: range) -> list[Tensor]:
        return [self.pixels(maps, time, rows) for maps in self.context]


class _BlockMatrices:
    """A `GatedBlock` on features ``(P * N, channels)``, its input already gathered."""

    def __init__(self, block: nn.Module) -> None:
        block = cast(GatedBlock, block)
        self.first, self.second = _matrix(block.first), _matrix(block.second)
        self.link = None if block.link is None else _matrix(block.link)

    def __call__(self, h: Tensor, inputs: Tensor, others: Sequence[Tensor]) -> Tensor:
        branch = F.linear(inputs, *self.first)
        if self.link is not None:
            branch = branch + F.linear(torch.cat(list(others), -1), *self.link)
        value, gate = F.linear(F.elu(branch), *self.second).chunk(2, -1)
        return h + value * gate.sigmoid()


def _matrix(layer: nn.Module) -> Matrix:
    if isinstance(layer, ShiftedConv2d):
        return layer.tap_weight().T, layer.bias
    layer = cast(WeightNormConv2d, layer)
    return layer.weight()[:, :, 0, 0], layer.bias
