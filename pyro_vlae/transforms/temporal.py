"""Autoregressive transforms of codes that are sequences of vectors, of different lengths.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.2.
"""

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform

from pyro_vlae.nn import MaskedConvNet
from pyro_vlae.transforms.spatial import invert_mean_only


class TemporalMeanOnlyAutoregressive(Transform):
    """``y = x + mean(x)`` on sequences ``(C, L)``, where the mean is a masked ConvNet of earlier x.

    Values are ordered by time, then by channel; ``reverse`` reverses both. Each sequence is
    reversed within its own length, so that the padding comes last in either order and never affects
    the values before it. x -> y is one parallel pass; y -> x goes through the sequence once.

    Args:
        network: the masked ConvNet, on feature maps ``(N, C, L, 1)``.
        lengths: number of vectors of each sequence, ``(N,)``.
        reverse: use the reversed order.

    Shapes: flat sequences ``(*batch, N, C * L)``.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, network: MaskedConvNet, lengths: Tensor, reverse: bool = False) -> None:
        super().__init__(cache_size=0)
        self.network = network
        self.lengths = lengths
        self.reverse = reverse

    def _call(self, x: Tensor) -> Tensor:
        maps = self._ordered(x)
        return self._flat(maps + self.network(maps.unsqueeze(-1)).squeeze(-1), x)

    def _inverse(self, y: Tensor) -> Tensor:
        maps = self._ordered(y)
        x, _ = invert_mean_only(self.network, maps.unsqueeze(-1))
        return self._flat(x.squeeze(-1), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, of shape ``x.shape[:-1]``."""
        return x.new_zeros(x.shape[:-1])

    def _ordered(self, x: Tensor) -> Tensor:
        """Flat sequences as ``(M, C, L)`` in the network's order."""
        maps = x.reshape(*x.shape[:-1], self.network.channels, -1)
        return self._reversed(maps).flatten(0, -3)

    def _flat(self, maps: Tensor, like: Tensor) -> Tensor:
        maps = maps.reshape(*like.shape[:-1], *maps.shape[-2:])
        return self._reversed(maps).reshape(like.shape)

    def _reversed(self, maps: Tensor) -> Tensor:
        """Sequences ``(*batch, C, L)``, reversed within their lengths if ``reverse`` is set."""
        if not self.reverse:
            return maps
        place = torch.arange(maps.shape[-1], device=maps.device)
        last = self.lengths.unsqueeze(-1) - 1
        place = torch.where(place > last, place, last - place).unsqueeze(-2)
        return maps.flip(-2).gather(-1, place.expand(maps.shape))
