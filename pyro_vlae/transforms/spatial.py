"""Autoregressive transforms of codes that are feature maps.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix
    (CIFAR-10).
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import cast

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.nn import functional as F

from pyro_vlae.nn.causal import CausalConv2d, Offset
from pyro_vlae.nn.fronts import FrontCache, Fronts, by_pixel, wavefront_slope
from pyro_vlae.nn.masked_convnet import MaskedConvNet
from pyro_vlae.nn.weight_norm import in_functional_transform


class SpatialMeanOnlyAutoregressive(TransformModule):
    """``y = x + mean(x)`` on feature maps, where the mean is a masked ConvNet of earlier x.

    Codes are feature maps ``(C, H, W)`` flattened to ``(*batch, C * H * W)``. Values are in raster
    order over positions, then ordered by channel; ``reverse`` reverses the whole order. x -> y is
    one parallel pass. y -> x is exact and computes every feature once: wavefront by wavefront
    (`pyro_vlae.nn.wavefront`) over positions, channel by channel at each.

    The transform shifts but does not scale, like those of the paper's binary models. It preserves
    volume (the log-determinant is 0), so six of them over a thousand dimensions neither overflow
    nor let the density grow without bound, and the inverse needs no division. Encoder and decoder
    can set the scale of the code.

    Args:
        code_shape: ``(C, H, W)`` of the code.
        hidden_channels: channels of the hidden layers.
        reverse: use the reversed order.
    """

    float32_networks = ("network",)  # may be compiled

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    autoregressive = True

    def __init__(
        self,
        code_shape: tuple[int, int, int] = (16, 8, 8),
        hidden_channels: Sequence[int] = (128, 128),
        reverse: bool = False,
    ) -> None:
        super().__init__(cache_size=1)
        self.code_shape = code_shape
        self.reverse = reverse
        self.network = MaskedConvNet(code_shape[0], hidden_channels)

    def _call(self, x: Tensor) -> Tensor:
        return x + self._flat(self.network(self._maps(x)), x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.invert(y, torch.sub)[0]

    def invert(self, y: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Find x with ``x_k = solve(y_k, mean_k(earlier x))``; see `MeanOnlyAutoregressive`."""
        x, means = invert_mean_only(self.network, self._maps(y), solve)
        return self._flat(x, y), self._flat(means, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, of shape ``x.shape[:-1]``."""
        return x.new_zeros(x.shape[:-1])

    def _maps(self, x: Tensor) -> Tensor:
        """Flat codes as feature maps ``(N, C, H, W)`` in the network's order."""
        if x.shape[-1] != prod(self.code_shape):
            raise ValueError(
                f"expected codes of {prod(self.code_shape)} dimensions, flattened feature maps "
                f"{self.code_shape}, got a tensor of shape {tuple(x.shape)}"
            )
        # Reversing the flat code reverses rows, columns, and channels at once.
        return (x.flip(-1) if self.reverse else x).reshape(-1, *self.code_shape)

    def _flat(self, maps: Tensor, like: Tensor) -> Tensor:
        flat = maps.reshape(like.shape)
        return flat.flip(-1) if self.reverse else flat


# The earlier positions that a masked 3x3 kernel reads: its first four.
EARLIER: list[Offset] = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]


def invert_mean_only(
    network: MaskedConvNet, y: Tensor, solve: Callable[[Tensor, Tensor], Tensor] = torch.sub
) -> tuple[Tensor, Tensor]:
    """Find x such that ``x + network(x) = y``, computing each feature of the network once.

    The evaluator of `pyro_vlae.nn.wavefront` would recompute all hidden units of a position for
    each of its channels. Layers are not called, so nothing is initialized.

    Args:
        network: the masked ConvNet.
        y: feature maps ``(N, C, H, W)``.
        solve: computes x from y and the mean, one value of each image.

    Returns:
        x and ``network(x)``, in the shape of y; differentiable.
    """
    with torch.autocast(y.device.type, enabled=False):  # sums are added to in place
        return _invert(network, y, solve)


def _invert(
    network: MaskedConvNet, y: Tensor, solve: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    size, channels, height, width = y.shape
    # In place is cheaper, but would overwrite tensors that autograd has saved.
    tensors = (y, *network.parameters())
    grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    add = torch.addmm if grad or in_functional_transform(*tensors) else Tensor.addmm_
    layers = [cast(CausalConv2d, layer) for layer in network.layers]
    kernels = [layer.weight().flatten(2).permute(2, 1, 0) for layer in layers]
    biases = [layer.bias for layer in layers]
    earlier = [kernel[: len(EARLIER)].flatten(0, 1) for kernel in kernels]
    # Weights at the position itself, split by the degree (see `MaskedConvNet`) of their inputs.
    degrees = [[1] * channels, *network.units]
    own = [kernel[len(EARLIER)].split(n) for kernel, n in zip(kernels, degrees, strict=False)]
    fronts = Fronts(height, width, wavefront_slope(EARLIER))
    caches = [FrontCache(y, size, kernel.shape[1], fronts, EARLIER) for kernel in kernels]
    targets, solved, means = by_pixel(y), [], []
    indices = fronts.indices(y.device)
    for front in indices:
        # The contribution of earlier positions to this front; then one channel after the other.
        sums = [
            torch.addmm(bias, cache.read(front, EARLIER), weight)
            for bias, cache, weight in zip(biases, caches, earlier, strict=True)
        ]
        target = fronts.pixels(targets, front)
        found: list[list[Tensor]] = [[] for _ in kernels]
        for k in range(channels):
            for level, units in enumerate(network.units[:-1]):
                if units[k]:
                    start = sum(units[:k])
                    h = F.elu(sums[level][:, start : start + units[k]])
                    found[level + 1].append(h)
                    sums[level + 1] = add(sums[level + 1], h, own[level + 1][k])
            value = solve(target[:, k : k + 1], sums[-1][:, k : k + 1])
            found[0].append(value)
            sums[0] = add(sums[0], value, own[0][k])
        features = [torch.cat(parts, 1) for parts in found]
        for cache, known in zip(caches, features, strict=True):
            cache.write(front, known)
        solved.append(features[0])
        means.append(sums[-1])
    # Back from the order of the fronts to raster order.
    order = torch.cat([rows * width + columns for rows, columns in indices.values()]).argsort()
    x, mean = (
        torch.cat(parts)
        .view(height * width, size, channels)[order]
        .view(height, width, size, channels)
        .permute(2, 3, 0, 1)
        for parts in (solved, means)
    )
    return x, mean
