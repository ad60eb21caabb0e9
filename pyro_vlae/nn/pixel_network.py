"""The interface of networks for `pyro_vlae.distributions.PixelCNN`."""

import torch
from torch import nn

from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.graph import UntraceableNetwork
from pyro_vlae.nn.tracing import plan


class PixelNetwork(nn.Module):
    """Base class of networks that turn images into parameters of each pixel's distribution.

    Subclasses define only ``forward(x, context)``. It maps images ``(N, image_channels, H, W)`` and
    a context ``(N, context_channels, H, W)``, or None, to parameters ``(N, P, H, W)``, which must
    depend only on earlier pixels in raster order. Networks built from `CausalConv2d`, 1x1
    convolutions, and functions of single pixels are sampled fast, computing each feature once;
    others are sampled with full passes. Any other module with these attributes works as well; those
    with a default are optional.

    Attributes:
        image_channels: channels of the image.
        context_channels: channels of the context, 0 for a network without one.
        channel_autoregressive: whether the parameters of an image channel also depend on the
            pixel's previous channels, so that pixels are sampled channel by channel.
        outputs: the meaning of the parameters, a key of `pyro_vlae.distributions.EMISSIONS`.
            Alternatively, a network may have a method ``emission(parameters)``, which returns the
            distribution of the pixels, and an attribute ``support``.
    """

    image_channels: int
    context_channels: int = 0
    channel_autoregressive: bool = False
    outputs: str | None = None

    def window(self) -> frozenset[Offset] | None:
        """The offsets (row, column) of the other pixels that a pixel's parameters depend on.

        Derived from the forward pass; None if that cannot be traced. A network that cannot be
        traced may override this method, since a known window makes full-pass sampling faster.
        """
        context = None
        if self.context_channels:
            like = next(self.parameters())
            context = like.new_zeros(1, self.context_channels, 32, 32)
        try:
            with torch.no_grad():
                return plan(self, context).trace.window()
        except UntraceableNetwork:
            return None


def parameters_per_pixel(channels: int, mixtures: int) -> int:
    """Number of parameters of mixtures of discretized logistics; with 0 mixtures, of logits.

    Each logistic of a channel has a logit, a mean, a log-scale, and a coefficient for each channel
    before.

    Raises:
        ValueError: mixtures is negative.
    """
    if mixtures < 0:
        raise ValueError(f"mixtures must be 0, for binary images, or more, got {mixtures}")
    return mixtures * sum(3 + channel for channel in range(channels)) if mixtures else channels
