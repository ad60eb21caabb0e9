"""Masked convolutions: the raster order of PixelCNN, written into the weights.

References:
    van den Oord et al., "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759 (masks A and B).
"""

import itertools

import torch
from torch import Tensor

from pyro_vlae.nn.weight_norm import WeightNormConv2d

Tap = tuple[int, int]  # (row offset, column offset) of an input pixel from the output pixel


class MaskedConv2d(WeightNormConv2d):
    """A weight-normalized convolution that sees earlier pixels in raster order only.

    The first ``image_channels`` input channels are hidden at the current pixel too (mask A: they
    hold the values being modeled); the others are visible there (mask B: features of earlier
    pixels, or the latent code's maps, which must stay visible or the code would be hidden).

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        image_channels: int = 0,
        init_scale: float = 1.0,
    ) -> None:
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise ValueError(
                f"kernel_size must be odd (there is a center pixel) and at least 3 (there are "
                f"pixels before it), got {kernel_size}"
            )
        super().__init__(in_channels, out_channels, kernel_size, init_scale=init_scale)
        self.in_channels, self.image_channels = in_channels, image_channels
        center = kernel_size // 2
        mask = torch.zeros(1, in_channels, kernel_size, kernel_size)
        mask[:, :, :center] = 1
        mask[:, :, center, :center] = 1
        mask[:, image_channels:, center, center] = 1
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.scale.copy_(self._norm(self.effective_direction()))

    def effective_direction(self) -> Tensor:
        """The direction with later pixels set to zero; gradients cannot reach them."""
        return self.direction * self.mask

    def taps(self, channels: slice = slice(None)) -> list[Tap]:
        """The offsets that the given input channels are read at, in raster order."""
        reach = self.padding
        offsets = itertools.product(range(-reach, 1), range(-reach, reach + 1))
        center = any(c >= self.image_channels for c in range(self.in_channels)[channels])
        return [tap for tap in offsets if tap < (0, 0) or (center and tap == (0, 0))]

    def tap_weight(self, channels: slice = slice(None)) -> Tensor:
        """The weight as a matrix ``(taps * channels, out_channels)``, taps as `taps` lists them."""
        # In raster order, the taps are the first places of the kernel.
        weight = self.weight()[:, channels].flatten(2)[:, :, : len(self.taps(channels))]
        return weight.permute(2, 1, 0).flatten(0, 1)
