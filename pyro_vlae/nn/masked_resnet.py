"""The paper's small PixelCNN network: a ResNet of masked 3x3 convolutions with a chosen window.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, appendix (binary images).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import PointwiseBlock
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.pixel_network import PixelNetwork, parameters_per_pixel
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, WeightNormConv2d, image_layout


class MaskedResNet(PixelNetwork):
    """A PixelCNN network of masked convolutions, which see a window of earlier pixels.

    The first masked convolution reads the image (hidden at the current pixel) and the context
    (visible there); each of the others adds to the features. Pointwise residual blocks lie between
    them. With n masked 3x3 layers, pixel (i, j) sees columns ``j-n..j-1`` of its own row and
    columns ``j-n..j+r`` of the row r above, r = 1..n.

    Args:
        image_channels: channels of the image.
        context_channels: channels of the context, 0 for an unconditional network.
        hidden_channels: channels of every hidden layer.
        masked_layers: number of masked convolutions, n above.
        pointwise_blocks: residual blocks of 1x1 convolutions, one after each of the first masked
            layers; at most ``masked_layers``.
        kernel_size: odd size of the masked kernels.
        tied: share one set of weights among all masked convolutions after the first, as the paper
            does against overfitting on static MNIST.
        mixtures: logistics per channel for images of 256 levels, 0 for binary images.

    Shapes: image ``(N, image_channels, H, W)`` and context ``(N, context_channels, H, W)`` to
    Bernoulli logits ``(N, image_channels, H, W)``, or parameters of mixtures of discretized
    logistics ``(N, P, H, W)``, any H and W.

    Raises:
        ValueError: masked_layers is less than 1, there are more pointwise_blocks than masked
            layers, the kernel size is even or less than 3, or mixtures is negative.
    """

    def __init__(
        self,
        image_channels: int = 1,
        context_channels: int = 4,
        hidden_channels: int = 12,
        masked_layers: int = 6,
        pointwise_blocks: int = 4,
        kernel_size: int = 3,
        tied: bool = True,
        mixtures: int = 0,
    ) -> None:
        super().__init__()
        if masked_layers < 1:
            raise ValueError(f"masked_layers must be at least 1, got {masked_layers}")
        if not 0 <= pointwise_blocks <= masked_layers:
            raise ValueError(
                f"pointwise_blocks must lie between 0 and masked_layers = {masked_layers}, "
                f"got {pointwise_blocks}"
            )
        self.image_channels = image_channels
        self.context_channels = context_channels
        self.outputs = "discretized_logistic_mixture" if mixtures else "bernoulli_logits"
        self.residual_layers = masked_layers - 1
        self.tied = tied
        self.first = CausalConv2d(
            image_channels + context_channels, hidden_channels, kernel_size, image_channels
        )
        distinct = min(1, self.residual_layers) if tied else self.residual_layers
        self.layers = nn.ModuleList(
            CausalConv2d(
                hidden_channels, hidden_channels, kernel_size, init_scale=BRANCH_INIT_SCALE
            )
            for _ in range(distinct)
        )
        self.pointwise = nn.ModuleList(
            PointwiseBlock(hidden_channels) for _ in range(pointwise_blocks)
        )
        outputs = parameters_per_pixel(image_channels, mixtures)
        self.last = WeightNormConv2d(hidden_channels, outputs, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(image_layout(x if context is None else torch.cat([x, context], 1)))
        for k in range(self.residual_layers + 1):
            if k:
                h = h + self.layers[0 if self.tied else k - 1](F.elu(h))
            if k < len(self.pointwise):
                h = self.pointwise[k](h)
        return self.last(F.elu(h))

    def untie(self) -> None:
        """Give each masked convolution weights of its own, in place: copies of the shared ones.

        The network computes the same as before, until it is trained further. Untie before the
        optimizer is made; parameters that Pyro has already registered stay in its parameter store.
        """
        if self.tied:
            shared = list(self.layers) * self.residual_layers
            self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in shared)
            self.tied = False
