"""The flow prior on a grid: mean-only layers as bijections of grid points.

On the grid ``z = delta n``, a mean-only layer becomes ``n' = n + round(mean(delta n) / delta)``.
This maps integers to integers one to one, so the code can be coded as the image of n under all
layers, with the quantized standard normal of the base distribution and no Jacobian. Each layer's
rounding adds noise of variance ``delta^2 / 12`` to each dimension, which costs ``delta^2 / 24``
nats.

References:
    Hoogeboom et al., "Integer Discrete Flows and Lossless Compression", 2019, arXiv:1905.07376.
"""

from typing import Any

import torch
from pyro.distributions import Independent, Normal, TransformedDistribution
from torch import Tensor

from pyro_vlae.codec.container import CodecError
from pyro_vlae.transforms import MeanOnlyAutoregressive, SpatialMeanOnlyAutoregressive


class LatticePrior:
    """A standard normal or mean-only flow prior on the grid of multiples of ``delta``.

    Args:
        prior: the distribution of codes.
        delta: distance of grid points, a power of two, so that float32 arithmetic is exact.

    Raises:
        CodecError: the prior is neither a standard normal nor a mean-only flow.
    """

    def __init__(self, prior: Any, delta: float) -> None:
        layers: list[Any] = []
        if isinstance(prior, TransformedDistribution):
            layers = [transform.inv for transform in reversed(prior.transforms)]
            prior = prior.base_dist
        for layer in layers:
            if not isinstance(layer, MeanOnlyAutoregressive | SpatialMeanOnlyAutoregressive):
                raise CodecError(
                    f"lossless coding needs a prior whose flow layers only shift, got a "
                    f"{type(layer).__name__}: a layer that scales is not a bijection on the grid. "
                    "Use FlowPrior(code_dim) with its default layers, or LossyCodec"
                )
        normal = getattr(prior, "base_dist", None)
        if not (
            isinstance(prior, Independent)
            and isinstance(normal, Normal)
            and bool((normal.loc == 0).all() and (normal.scale == 1).all())
        ):
            raise CodecError(
                "lossless coding needs a standard normal prior or a flow over one, got a "
                f"{type(prior).__name__}: use StandardNormalPrior, FlowPrior, or LossyCodec"
            )
        self.layers, self.delta = layers, delta
        self.code_dim = prior.event_shape[0]

    def to_noise(self, z: Tensor) -> Tensor:
        """Map codes ``(N, code_dim)`` on the grid to grid points of the base distribution."""
        for layer in self.layers:
            # The inverse's own code path, told each value instead of solving for it: a parallel
            # pass would round differently.
            _, means = layer.invert(z, lambda value, mean: value)
            z = z + self._snap(means)
        return z

    def to_codes(self, noise: Tensor) -> Tensor:
        """The inverse of `to_noise`."""
        for layer in reversed(self.layers):
            noise, _ = layer.invert(noise, lambda value, mean: value - self._snap(mean))
        return noise

    def _snap(self, mean: Tensor) -> Tensor:
        """The nearest multiple of delta."""
        return torch.round(mean / self.delta) * self.delta
