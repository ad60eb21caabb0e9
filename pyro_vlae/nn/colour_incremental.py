"""`ColourPixelCNN` evaluated pixel by pixel and channel by channel, each feature computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.gated import GatedBlock
from pyro_vlae.nn.incremental import FrontCache, front_pixels, rows_at, wavefronts
from pyro_vlae.nn.masked import Tap
from pyro_vlae.nn.masked_resnet import by_pixel
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

    @torch.no_grad()
    def __init__(
        self,
        network: ColourPixelCNN,
        context: Tensor | None,
        size: int,
        height: int,
        width: int,
    ) -> None:
        self.network, self.shape = network, (size, height, width)
        self.levels = len(network.vertical) + 1
        self.context = [] if context is None else [by_pixel(context)]  # (H * W, N, K), if any
        self.first_vertical = _matrix(network.first_vertical)
        self.first_in_group = [_matrix(layer) for layer in network.first_in_group]
        self.vertical = [_BlockMatrices(block) for block in network.vertical]
        groups = cast("list[nn.ModuleList]", network.groups)
        self.groups = [[_BlockMatrices(block) for block in group] for group in groups]
        self.last = [_matrix(layer) for layer in network.last]

        like = network.first_vertical.bias
        self.filters = len(like)
        # The last vertical level reads up to `levels` columns to the right, one row up.
        self.slope = self.levels + 1
        self.vertical_taps = network.first_vertical.taps()
        self.horizontal_taps = cast(ShiftedConv2d, network.first_in_group[0]).taps()

        def cache(channels: int, taps: list[Tap], lead: int = 0) -> FrontCache:
            return FrontCache(like, size, channels, height, self.slope, taps, lead)

        seen = network.first_vertical.direction.shape[1]
        self.image = cache(seen, self.vertical_taps + self.horizontal_taps)
        # A level is read by the next one a wavefront later, and at the pixel itself.
        self.raw = [cache(self.filters, VERTICAL_TAPS, self.levels) for _ in range(self.levels)]
        self.active = [cache(self.filters, VERTICAL_TAPS, self.levels) for _ in range(self.levels)]
        self.left = [
            cache(self.filters, HORIZONTAL_TAPS) for _ in range(1, network.horizontal_layers)
        ]
        fronts = wavefronts(height, width, self.slope)
        self.wavefronts = [(r.to(like.device), c.to(like.device)) for r, c in fronts]
        self.times = iter([int(c[0] + self.slope * r[0]) for r, c in fronts])
        self.time = -self.levels  # the last time at which vertical features were computed
        # Of the wavefront at hand: the channel to come, what was written, what blocks are linked to
        self.channel = 0
        self.rows = range(0)
        self.pixels = like.new_zeros(0, network.image_channels)
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
            own = self.pixels[:, : self.channel]
            own = torch.cat([own, torch.ones_like(own[:, :1])], -1)
        h = F.linear(own, *self.first_in_group[self.channel])
        for k, block in enumerate(self.groups[self.channel]):
            inputs = F.elu(h)
            if self.channel == 0 and 1 <= k <= len(self.left):
                left = self.left[k - 1]
                left.write(self.time, self.rows).copy_(self._by_image(inputs))
                inputs = left.read(self.time, self.rows, HORIZONTAL_TAPS)
            h = block(h, inputs, self.known[k])
            self.known[k].append(F.elu(h))
        self.shares[self.channel] = F.linear(F.elu(h), *self.last[self.channel])
        return self._by_image(torch.cat(self.shares, -1)).permute(1, 2, 0).unsqueeze(2).contiguous()

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make values ``(N, 3, 1, P)`` of P pixels known, up to the channel that was to come."""
        self.pixels = pixels.squeeze(2).permute(2, 0, 1).flatten(0, 1)
        self.channel += 1
        if self.channel == self.network.image_channels:
            self.channel = 0
            seen = self.network.seen(pixels).squeeze(2).permute(2, 0, 1)
            self.image.write(self.time, self.rows).copy_(seen)

    def _begin(self) -> None:
        """Bring the vertical stack up to a new wavefront."""
        _, height, width = self.shape
        before, now = self.time, next(self.times)
        for time in range(before + 1, now + 1):
            for level in range(self.levels):
                self._advance(level, time + self.levels - 1 - level)
        self.time, self.rows = now, rows_at(now, height, width, self.slope)
        maps = self._context_at(now, self.rows)
        levels = [cache.read(now, self.rows, [(0, 0)]) for cache in self.active]
        self.known = [[*maps, levels[min(k, self.levels - 1)]] for k in range(len(self.groups[0]))]
        self.shares = [bias.new_zeros(len(levels[0]), len(bias)) for _, bias in self.last]

    def _advance(self, level: int, time: int) -> None:
        """Compute a level's vertical features at the pixels of a wavefront ahead."""
        _, height, width = self.shape
        rows = rows_at(time, height, width, self.slope)
        if not rows:
            return
        if level == 0:
            v = F.linear(self.image.read(time, rows, self.vertical_taps), *self.first_vertical)
        else:
            below = self.raw[level - 1].read(time, rows, [(0, 0)])
            inputs = self.active[level - 1].read(time, rows, VERTICAL_TAPS)
            v = self.vertical[level - 1](below, inputs, self._context_at(time, rows))
        v = self._by_image(v)
        self.raw[level].write(time, rows).copy_(v)
        F.elu_(self.active[level].write(time, rows).copy_(v))

    def _by_image(self, features: Tensor) -> Tensor:
        return features.view(-1, self.shape[0], features.shape[-1])

    def _context_at(self, time: int, rows: range) -> list[Tensor]:
        width = self.shape[2]
        pixels = [front_pixels(maps, time, rows, width, self.slope) for maps in self.context]
        return [maps.flatten(0, 1) for maps in pixels]


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
