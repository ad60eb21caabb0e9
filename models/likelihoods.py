"""Likelihoods p(x | features): modules that return a Pyro distribution, built at each call."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.distributions import Emission, PixelCNN
from pyro_vlae.nn import WeightNormConv2d
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE


class PixelCNNLikelihood(nn.Module):
    """A `PixelCNN` with the decoder's features as its context.

    Called with features ``(*batch, K, H, W)``, it returns a distribution with batch shape ``batch``
    and event shape ``(C, H, W)``.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`.
        emission: see `pyro_vlae.distributions.PixelCNN`; the network's own if None.
    """

    networks = ("network",)  # may be compiled and run in half precision

    def __init__(self, network: nn.Module, emission: Emission | None = None) -> None:
        super().__init__()
        self.network = network
        self.emission = emission

    def forward(self, features: Tensor) -> PixelCNN:
        return PixelCNN(self.network, features, emission=self.emission)


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli pixels: the factorized decoder of an ordinary VAE.

    Called with features ``(*batch, feature_channels, H, W)``, it returns a distribution with batch
    shape ``batch`` and event shape ``(image_channels, H, W)``.

    Args:
        feature_channels: channels of the features.
        image_channels: channels of the images.
    """

    def __init__(self, feature_channels: int = 4, image_channels: int = 1) -> None:
        super().__init__()
        channels = (feature_channels, image_channels)
        self.logits = WeightNormConv2d(*channels, init_scale=BRANCH_INIT_SCALE)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        logits = self.logits(F.elu(features.reshape(-1, *features.shape[-3:])))
        logits = logits.view(*features.shape[:-3], *logits.shape[1:])
        return dist.Bernoulli(logits=logits).to_event(3)
