"""`ColourPixelCNN` evaluated pixel by pixel and channel by channel, each feature computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.gated import GatedBlock
from pyro_vlae.nn.incremental import PixelCache, wavefront_at, wavefronts
from pyro_vlae.nn.two_stack import HORIZONTAL_TAPS, VERTICAL_TAPS, ShiftedConv2d
from pyro_vlae.nn.weight_norm import WeightNormConv2d

if TYPE_CHECKING:
    from pyro_vlae.nn.colour_pixelcnn import ColourPixelCNN

Matrix = tuple[Tensor, Tensor]  # weight (out, in) and bias, for features in the last dimension


class IncrementalColour:
    """One run of a `ColourPixelCNN` over images whose pixels become known in wavefronts.

    For every wavefront `parameters` and `write` are called once per channel: red first, then, its
    value being known, green, then blue. As in `IncrementalTwoStack`, the vertical stack runs ahead.
    """

    def __init__(
        self,
        network: ColourPixelCNN,
        context: Tensor | None,
        size: int,
        height: int,
        width: int,
    ) -> None:
        self.network, self.height, self.width = network, height, width
        self.levels = len(network.vertical) + 1
        # (N, H * W, K), or no maps at all
        self.context = [] if context is None else [context.flatten(2).transpose(1, 2).contiguous()]
        self.first_vertical = _matrix(network.first_vertical)
        self.first_in_group = [_matrix(layer) for layer in network.first_in_group]
        self.vertical = [_BlockMatrices(block) for block in network.vertical]
        groups = cast("list[nn.ModuleList]", network.groups)
        self.groups = [[_BlockMatrices(block) for block in group] for group in groups]
        self.last = [_matrix(layer) for layer in network.last]

        like = network.first_vertical.bias
        self.filters = len(like)
        seen = network.first_vertical.direction.shape[1]

        def cache(channels: int) -> PixelCache:
            return PixelCache(like, size, channels, (height, width), pad=2)

        self.image = cache(seen)
        self.raw = [cache(len(like)) for _ in range(self.levels)]
        self.active = [cache(len(like)) for _ in range(self.levels)]
        self.left = [cache(len(like)) for _ in range(1, network.horizontal_layers)]
        self.first_vertical_taps = self.image.offsets(network.first_vertical.taps())
        first_horizontal = cast(ShiftedConv2d, network.first_in_group[0])
        self.first_horizontal_taps = self.image.offsets(first_horizontal.taps())
        self.vertical_taps = self.image.offsets(VERTICAL_TAPS)
        self.horizontal_taps = self.image.offsets(HORIZONTAL_TAPS)
        # The last vertical level reads up to `levels` columns to the right, one row up.
        self.slope = self.levels + 1
        fronts = wavefronts(height, width, self.slope)
        self.wavefronts = [(r.to(like.device), c.to(like.device)) for r, c in fronts]
        self.times = iter([int(c[0] + self.slope * r[0]) for r, c in fronts])
        self.done = -self.levels  # the last time at which vertical features were computed
        # Of the wavefront at hand: the channel to come, what was written, what blocks are linked to
        self.channel = 0
        self.pixels = like.new_zeros(size, 0, network.image_channels)
        self.known: list[list[Tensor]] = []
        self.shares: list[Tensor] = []

    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Parameters of P pixels, ``(N, 12 mixtures, 1, P)``, right up to the channel to come.

        Those of later channels, which depend on its value, are zero.
        """
        at = self.image.positions(rows, columns)
        if self.channel == 0:
            self._begin(rows, columns, at)
            h = F.linear(self.image.read(at, self.first_horizontal_taps), *self.first_in_group[0])
        else:
            own = self.pixels[..., : self.channel]
            own = torch.cat([own, torch.ones_like(own[..., :1])], -1)
            h = F.linear(own, *self.first_in_group[self.channel])
        for k, block in enumerate(self.groups[self.channel]):
            inputs = F.elu(h)
            if self.channel == 0 and 1 <= k <= len(self.left):
                self.left[k - 1].write(at, inputs)
                inputs = self.left[k - 1].read(at, self.horizontal_taps)
            h = block(h, inputs, self.known[k])
            self.known[k].append(F.elu(h))
        self.shares[self.channel] = F.linear(F.elu(h), *self.last[self.channel])
        return torch.cat(self.shares, -1).transpose(1, 2).unsqueeze(2)

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make values ``(N, 3, 1, P)`` of P pixels known, up to the channel that was to come."""
        self.pixels = pixels.squeeze(2).transpose(1, 2)
        self.channel += 1
        if self.channel == self.network.image_channels:
            self.channel = 0
            seen = self.network.seen(pixels).squeeze(2).transpose(1, 2)
            self.image.write(self.image.positions(rows, columns), seen)

    def _begin(self, rows: Tensor, columns: Tensor, at: Tensor) -> None:
        """Bring the vertical stack up to a new wavefront."""
        now = next(self.times)
        for time in range(self.done + 1, now + 1):
            for level in range(self.levels):
                self._advance(level, time)
        self.done = now
        maps = self._context_at(rows, columns)
        levels = [cache.values.index_select(1, at) for cache in self.active]
        self.known = [[*maps, levels[min(k, self.levels - 1)]] for k in range(len(self.groups[0]))]
        shape = (len(self.image.values), len(rows))
        self.shares = [bias.new_zeros(*shape, len(bias)) for _, bias in self.last]

    def _advance(self, level: int, time: int) -> None:
        """Compute a level's vertical features where they become computable at this time."""
        ahead = time + self.levels - 1 - level
        device = self.image.values.device
        rows, columns = wavefront_at(ahead, self.height, self.width, self.slope, device)
        if not len(rows):
            return
        at = self.image.positions(rows, columns)
        if level == 0:
            v = F.linear(self.image.read(at, self.first_vertical_taps), *self.first_vertical)
        else:
            below = self.raw[level - 1].values.index_select(1, at)
            inputs = self.active[level - 1].read(at, self.vertical_taps)
            v = self.vertical[level - 1](below, inputs, self._context_at(rows, columns))
        self.raw[level].write(at, v)
        self.active[level].write(at, F.elu(v))

    def _context_at(self, rows: Tensor, columns: Tensor) -> list[Tensor]:
        return [maps.index_select(1, rows * self.width + columns) for maps in self.context]


class _BlockMatrices:
    """A `GatedBlock` on features ``(N, P, channels)``, its input already gathered."""

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
