"""What a network must offer to stand in a `pyro_vlae.distributions.PixelCNN`."""

import torch
from torch import nn

from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.tracing import UntraceableNetwork, plan


class PixelNetwork(nn.Module):
    """Base class of networks that turn images into parameters of each pixel's distribution.

    ``forward(x, context)`` is the only definition. It maps images ``(N, image_channels, H, W)`` and
    a context ``(N, context_channels, H, W)``, or None, to parameters ``(N, P, H, W)``; those at a
    pixel depend on earlier pixels in raster order only. A network that is built from
    `CausalConv2d`, 1x1 convolutions and functions of single pixels is sampled fast, each feature
    being computed once; others are sampled by full passes. Any other module with these attributes
    will do as well, and those with a default may be missing.

    Attributes:
        image_channels: channels of the image.
        context_channels: channels of the context, 0 for a network without one.
        channel_autoregressive: whether the parameters of an image channel also depend on the
            pixel's own channels before it. Then pixels are sampled channel by channel.
        outputs: how the parameters are to be read, a key of
            `pyro_vlae.distributions.EMISSIONS`. Instead a network may have a method
            ``emission(parameters)`` that returns the pixels' distribution, and their ``support``.
    """

    image_channels: int
    context_channels: int = 0
    channel_autoregressive: bool = False
    outputs: str | None = None

    def window(self) -> frozenset[Offset] | None:
        """The offsets (row, column) of the other pixels that a pixel's parameters depend on.

        Derived from the forward pass. None if that cannot be traced: a network for which it cannot
        may state its window here, which makes sampling it by full passes faster.
        """
        context = None
        if self.context_channels:
            like = next(self.parameters())
            context = like.new_zeros(1, self.context_channels, 4, 4)
        try:
            with torch.no_grad():
                return plan(self, context).trace.window()
        except UntraceableNetwork:
            return None
