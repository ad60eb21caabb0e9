"""A masked ConvNet on feature maps: each value's parameter depends on earlier values only.

The order of the values of maps ``(C, H, W)`` is raster order over positions and, within a position,
the order of the maps: (row, column, map).

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 (the prior's
    steps are "a PixelCNN" on the code's maps).
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix C (masks over positions and maps together).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.causal import Tap
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, WeightNormConv2d, image_layout


class MapOrderedConv2d(WeightNormConv2d):
    """A 3x3 convolution that sees earlier positions, and at its own position complete maps only.

    An output map of degree d sees, at its own position, input maps of degree d or less. A map of
    degree d knows the first d values of its position.

    Args:
        in_degrees: the degree of each input map.
        out_degrees: the degree of each output map.
        init_scale: see `WeightNormConv2d`.

    Shapes: ``(N, len(in_degrees), H, W) -> (N, len(out_degrees), H, W)``.
    """

    mask: Tensor

    def __init__(self, in_degrees: Tensor, out_degrees: Tensor, init_scale: float = 1.0) -> None:
        super().__init__(len(in_degrees), len(out_degrees), 3, init_scale=init_scale)
        mask = torch.zeros(len(out_degrees), len(in_degrees), 3, 3)
        mask[:, :, 0] = 1
        mask[:, :, 1, 0] = 1
        mask[:, :, 1, 1] = (in_degrees <= out_degrees[:, None]).float()
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.scale.copy_(self._norm(self.effective_direction()))

    def effective_direction(self) -> Tensor:
        """The direction with later values set to zero; gradients cannot reach them."""
        return self.direction * self.mask

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Weights of `EARLIER_TAPS`, ``(taps * in, out)``, and of the own position, ``(in, out)``.

        Taken from the weight as it is: nothing is initialized.
        """
        weight = self.weight()
        # They are the first places of the kernel.
        earlier = weight.flatten(2)[:, :, : len(EARLIER_TAPS)].permute(2, 1, 0).flatten(0, 1)
        return earlier, weight[:, :, 1, 1].T


EARLIER_TAPS: list[Tap] = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]


class MaskedMapNet(nn.Module):
    """A PixelCNN on maps, autoregressive over positions *and* over the maps at a position.

    Ordering the maps too costs nothing where all values are known, and lets a value depend on
    those that share its position, which are the most closely related ones. With n layers in all a
    value sees n rows up; stacked 3x3 masks leave out the upper right beyond column +r, r rows up,
    which steps in the reversed order see.

    Args:
        maps: number C of maps.
        hidden_maps: maps of each hidden layer; they share the degrees 0..C-1 out evenly.

    Shapes: ``(N, maps, H, W) -> (N, maps, H, W)``, any H and W.
    """

    def __init__(self, maps: int = 16, hidden_maps: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.maps = maps
        hidden = [torch.arange(size) * maps // size for size in hidden_maps]
        # Value k (from 0) is known to units of degree k + 1 and more; its own parameter has degree
        # k, so it sees the k values before it.
        degrees = [torch.arange(maps) + 1, *hidden, torch.arange(maps)]
        last = len(hidden)
        self.layers = nn.ModuleList(
            MapOrderedConv2d(
                degrees[k], degrees[k + 1], init_scale=BRANCH_INIT_SCALE if k == last else 1.0
            )
            for k in range(last + 1)
        )
        # Units of each degree, stored one degree after the other: (layers, C) counts.
        self.units = [d.bincount(minlength=maps).tolist() for d in degrees[1:]]

    def forward(self, x: Tensor) -> Tensor:
        h = image_layout(x)
        for k, layer in enumerate(self.layers):
            h = layer(F.elu(h) if k else h)
        return h

    def ordered_layers(self) -> list[MapOrderedConv2d]:
        """The masked convolutions, first to last."""
        return [cast(MapOrderedConv2d, layer) for layer in self.layers]
