"""Autoregressive flow steps on codes that are feature maps.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix
    (CIFAR-10).
"""

from collections.abc import Sequence
from math import prod

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.nn import functional as F

from pyro_vlae.nn.masked_maps import EARLIER_TAPS, MaskedMapNet
from pyro_vlae.nn.wavefront import PixelCache, wavefront_slope, wavefronts


class SpatialMeanOnlyAutoregressive(TransformModule):
    """The volume-preserving step ``y = x + mean(x)`` on maps, mean a masked ConvNet of earlier x.

    Codes are flat vectors ``(*batch, C * H * W)`` of maps ``(C, H, W)``. The order is raster order
    over positions, then over the maps of a position; ``reverse`` turns all of it round. x -> y is
    one parallel pass. y -> x is exact and evaluates every feature once: wavefront by wavefront over
    positions, value by value within.

    The step shifts and does not scale, as the paper's binary models have it: the log-determinant is
    0, so six steps over a thousand dimensions neither overflow nor let the density grow without
    bound, and the inverse divides by nothing. Encoder and decoder set the code's scale themselves.

    Args:
        code_shape: ``(C, H, W)`` of the code.
        hidden_maps: maps of the hidden layers.
        reverse: the last value comes first.
    """

    float32_networks = ("network",)  # that may be compiled

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    autoregressive = True

    def __init__(
        self,
        code_shape: tuple[int, int, int] = (16, 8, 8),
        hidden_maps: Sequence[int] = (128, 128),
        reverse: bool = False,
    ) -> None:
        super().__init__(cache_size=1)
        self.code_shape = code_shape
        self.reverse = reverse
        self.network = MaskedMapNet(code_shape[0], hidden_maps)

    def _call(self, x: Tensor) -> Tensor:
        return x + self._flat(self.network(self._maps(x)), x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._flat(invert_mean_only(self.network, self._maps(y)), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, of shape ``x.shape[:-1]``."""
        return x.new_zeros(x.shape[:-1])

    def _maps(self, x: Tensor) -> Tensor:
        """Flat codes as maps ``(N, C, H, W)`` in the network's order."""
        if x.shape[-1] != prod(self.code_shape):
            raise ValueError(
                f"expected codes of {prod(self.code_shape)} dimensions, the flat form of maps "
                f"{self.code_shape}, got a tensor of shape {tuple(x.shape)}"
            )
        # Turning the flat code round turns rows, columns and maps round at once.
        return (x.flip(-1) if self.reverse else x).reshape(-1, *self.code_shape)

    def _flat(self, maps: Tensor, like: Tensor) -> Tensor:
        flat = maps.reshape(like.shape)
        return flat.flip(-1) if self.reverse else flat


def invert_mean_only(network: MaskedMapNet, y: Tensor) -> Tensor:
    """Find x with ``x + network(x) = y``, each feature of the network computed once.

    Plain weights are used for layers not yet initialized, and nothing is initialized.

    Args:
        network: the masked ConvNet.
        y: maps ``(N, C, H, W)``.

    Returns:
        x, of y's shape. Gradients pass.
    """
    size, maps, height, width = y.shape
    # In place is cheaper, but would disturb what autograd has saved.
    grad = torch.is_grad_enabled() and (
        y.requires_grad or any(p.requires_grad for p in network.parameters())
    )
    add = torch.addmm if grad else Tensor.addmm_
    put = Tensor.index_copy if grad else Tensor.index_copy_
    layers = network.ordered_layers()
    matrices = [layer.matrices() for layer in layers]
    # The own position's weights, cut by the degree of what is read: C values, then hidden units.
    own = [matrices[0][1].split(1)]
    own += [m[1].split(units) for m, units in zip(matrices[1:], network.units, strict=False)]
    caches = [
        PixelCache(y, size, weight.shape[0], (height, width), pad=1) for _, weight in matrices
    ]
    flat = y.flatten(2).transpose(1, 2)  # (N, H * W, C)
    for rows, columns in wavefronts(height, width, wavefront_slope(EARLIER_TAPS), y.device):
        at = caches[0].positions(rows, columns)
        around = caches[0].around(at, EARLIER_TAPS)
        # What earlier positions say to all units of this front; then value by value within.
        sums = [
            torch.addmm(layer.bias, cache.read(around).flatten(0, 1), earlier)
            for layer, cache, (earlier, _) in zip(layers, caches, matrices, strict=True)
        ]
        target = flat.index_select(1, rows * width + columns).flatten(0, 1)
        found: list[list[Tensor]] = [[] for _ in layers]
        for k in range(maps):
            for level, units in enumerate(network.units[:-1]):
                if units[k]:
                    start = sum(units[:k])
                    h = F.elu(sums[level][:, start : start + units[k]])
                    found[level + 1].append(h)
                    sums[level + 1] = add(sums[level + 1], h, own[level + 1][k])
            value = target[:, k : k + 1] - sums[-1][:, k : k + 1]
            found[0].append(value)
            sums[0] = add(sums[0], value, own[0][k])
        for cache, features in zip(caches, found, strict=True):
            new = torch.cat(features, 1).view(size, len(at), -1)
            cache.values = put(cache.values, 1, at, new)
    inner = caches[0].values.view(size, height + 1, width + 2, maps)[:, 1:, 1:-1]
    return inner.permute(0, 3, 1, 2)
