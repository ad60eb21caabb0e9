"""The paper's small PixelCNN network: a ResNet of masked 3x3 convolutions with a chosen window.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, appendix (binary images).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.bernoulli import BernoulliNetwork
from pyro_vlae.nn.blocks import PointwiseBlock
from pyro_vlae.nn.causal import MaskedConv2d, Tap
from pyro_vlae.nn.wavefront import FrontRun, by_pixel, wavefront_slope
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, WeightNormConv2d, image_layout


class MaskedResNet(BernoulliNetwork):
    """A PixelCNN network for binary images: Bernoulli logits from a window of earlier pixels.

    The first masked convolution reads the image (hidden at the current pixel) beside the context
    maps (visible there); each further one is a residual step on the features. Pointwise residual
    blocks stand between them. With n masked 3x3 layers, pixel (i, j) sees columns ``j-n..j-1`` of
    its own row and columns ``j-n..j+r`` of the row r above, r = 1..n.

    Args:
        image_channels: channels of the image.
        context_channels: maps of the context, 0 for an unconditional network.
        filters: maps of every hidden layer.
        masked_layers: number of masked convolutions, n above.
        pointwise_blocks: residual blocks of 1x1 convolutions, one after each of the first masked
            layers; at most ``masked_layers``.
        kernel_size: odd size of the masked kernels.
        tied: all masked convolutions after the first share one set of weights (the paper's remedy
            against overfitting on static MNIST).

    Shapes: image ``(N, image_channels, H, W)`` and context ``(N, context_channels, H, W)`` to
    logits ``(N, image_channels, H, W)``, any H and W.
    """

    def __init__(
        self,
        image_channels: int = 1,
        context_channels: int = 4,
        filters: int = 12,
        masked_layers: int = 6,
        pointwise_blocks: int = 4,
        kernel_size: int = 3,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= pointwise_blocks <= masked_layers:
            raise ValueError(
                f"pointwise_blocks must lie between 0 and masked_layers = {masked_layers}, "
                f"got {pointwise_blocks}"
            )
        self.image_channels = image_channels
        self.context_channels = context_channels
        self.steps_after_first = masked_layers - 1
        self.tied = tied
        self.first = MaskedConv2d(
            image_channels + context_channels, filters, kernel_size, image_channels
        )
        distinct = min(1, self.steps_after_first) if tied else self.steps_after_first
        self.steps = nn.ModuleList(
            MaskedConv2d(filters, filters, kernel_size, init_scale=BRANCH_INIT_SCALE)
            for _ in range(distinct)
        )
        self.pointwise = nn.ModuleList(PointwiseBlock(filters) for _ in range(pointwise_blocks))
        self.last = WeightNormConv2d(filters, image_channels, 1, init_scale=BRANCH_INIT_SCALE)

    def step(self, k: int) -> MaskedConv2d:
        """The masked convolution of residual step k (the same one for all k when tied)."""
        return cast(MaskedConv2d, self.steps[0 if self.tied else k])

    def window(self) -> set[Tap]:
        """The offsets (rows, columns) of all image pixels that a pixel's logits depend on."""
        seen = set(self.first.taps(slice(self.image_channels)))
        for k in range(self.steps_after_first):
            taps = self.step(k).taps()
            seen |= {(i + di, j + dj) for i, j in seen for di, dj in taps}
        return seen

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(image_layout(x if context is None else torch.cat([x, context], 1)))
        for k in range(self.steps_after_first + 1):
            if k:
                h = h + self.step(k - 1)(F.elu(h))
            if k < len(self.pointwise):
                h = self.pointwise[k](h)
        return self.last(F.elu(h))

    def incremental(
        self, context: Tensor | None, size: int, height: int, width: int
    ) -> "IncrementalMaskedResNet":
        """Start drawing `size` images wavefront by wavefront; see `PixelCNN.sample`."""
        return IncrementalMaskedResNet(self, context, size, height, width)


class IncrementalMaskedResNet(FrontRun):
    """One run of a `MaskedResNet` over a batch of images whose pixels become known in wavefronts.

    Plain weights are used for layers not yet initialized, and nothing is initialized.
    """

    @torch.no_grad()
    def __init__(
        self, network: MaskedResNet, context: Tensor | None, size: int, height: int, width: int
    ) -> None:
        first, image = network.first, slice(network.image_channels)
        steps = [network.step(k) for k in range(network.steps_after_first)]
        self.image_taps = first.taps(image)
        self.step_taps = steps[0].taps() if steps else []
        weight, bias = first.weight(), first.bias
        slope = wavefront_slope(self.image_taps, self.step_taps)
        super().__init__(bias, size, height, width, slope)
        self.filters = len(bias)
        # The context is known beforehand: its share of the first layer is one convolution.
        if context is None:
            self.share = bias.expand(height * width, size, self.filters)
        else:
            maps = F.conv2d(
                context, weight[:, network.image_channels :], bias, padding=first.padding
            )
            self.share = by_pixel(maps)
        self.first = first.tap_weight(image)
        self.steps = [(layer.tap_weight(), layer.bias) for layer in steps]
        blocks = [cast(PointwiseBlock, block) for block in network.pointwise]
        self.pointwise = [
            (*pointwise_matrix(block.first), *pointwise_matrix(block.second)) for block in blocks
        ]
        self.last = pointwise_matrix(network.last)
        self.image = self.cache(network.image_channels, self.image_taps)
        # As the steps read them.
        self.features = [self.cache(self.filters, self.step_taps) for _ in steps]

    @torch.no_grad()
    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Parameters of P pixels whose predecessors are known: ``(N, channels, 1, P)``."""
        self.next_front()
        at = self.time, self.rows
        share = self.pixels(self.share, *at)
        h = torch.addmm(share, self.image.read(*at, self.image_taps), self.first)
        for k in range(len(self.steps) + 1):
            if k:
                weight, bias = self.steps[k - 1]
                cache = self.features[k - 1]
                F.elu_(cache.write(*at).copy_(self.by_image(h)))
                h.addmm_(cache.read(*at, self.step_taps), weight).add_(bias)
            if k < len(self.pointwise):
                add_pointwise(h, *self.pointwise[k])
        weight, last_bias = self.last
        return self.as_parameters(torch.addmm(last_bias, F.elu_(h), weight))

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make the values ``(N, channels, 1, P)`` of P pixels known."""
        self.image.write(self.time, self.rows).copy_(pixels.squeeze(2).permute(2, 0, 1))


def pointwise_matrix(layer: WeightNormConv2d) -> tuple[Tensor, Tensor]:
    """Weight ``(in, out)`` and bias of a 1x1 convolution, for features in the last dimension."""
    return layer.weight()[:, :, 0, 0].T, layer.bias


def add_pointwise(
    h: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
) -> None:
    """Apply a `PointwiseBlock` with these matrices to features ``(*, channels)`` in place."""
    inner = F.elu_(torch.addmm(first_bias, F.elu(h), first))
    h.addmm_(inner, second).add_(second_bias)
