"""A masked ConvNet on feature maps: the parameter of each value depends only on earlier values.

The values of feature maps ``(C, H, W)`` are in raster order over positions and, at each position,
in the order of the channels: (row, column, channel).

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 (the layers of
    the prior are "a PixelCNN" on the code's feature maps).
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix C (masks over positions and channels together).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, image_layout


class MaskedConvNet(nn.Module):
    """A PixelCNN on feature maps, autoregressive over positions *and* the channels at a position.

    Ordering the channels as well costs nothing when all values are known, and lets a value depend
    on those at its own position, which are the most closely related to it. With n layers a value
    sees n rows up; in the row r above, stacked 3x3 masks reach r columns to the right and no
    further. Transforms in the reversed order see the rest.

    Args:
        channels: number of channels C.
        hidden_channels: channels of each hidden layer; a unit of degree k depends on the first k
            values at its position, and the degrees 0..C-1 are assigned evenly.

    Shapes: ``(N, C, H, W) -> (N, C, H, W)``, any H and W.
    """

    def __init__(self, channels: int = 16, hidden_channels: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.channels = channels
        hidden = [torch.arange(size) * channels // size for size in hidden_channels]
        # Units of degree k + 1 and above see value k (from 0); its own parameter has degree k, so
        # it depends on the k values before it.
        degrees = [torch.arange(channels) + 1, *hidden, torch.arange(channels)]
        last = len(hidden)
        self.layers = nn.ModuleList(
            CausalConv2d(
                len(degrees[k]),
                len(degrees[k + 1]),
                own_pixel=degrees[k] <= degrees[k + 1][:, None],
                init_scale=BRANCH_INIT_SCALE if k == last else 1.0,
            )
            for k in range(last + 1)
        )
        # Number of units of each degree, (layers, C); units are stored in order of degree.
        self.units = [d.bincount(minlength=channels).tolist() for d in degrees[1:]]

    def forward(self, x: Tensor) -> Tensor:
        h = image_layout(x)
        for k, layer in enumerate(self.layers):
            h = layer(F.elu(h) if k else h)
        return h
