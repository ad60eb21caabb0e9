"""Affine autoregressive transforms whose inverse is fast.

References:
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934.
"""

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from torch import Tensor

from pyro_vlae.transforms.incremental import invert_autoregressive


class IncrementalAffineAutoregressive(AffineAutoregressive):
    """Pyro's `AffineAutoregressive` with an inverse that costs about one dense pass.

    Arguments, weights, and values are the same, and x -> y is unchanged. Use it wherever y -> x is
    needed: to sample a `FlowPrior` or score arbitrary codes under an inverse autoregressive flow.

    Args:
        autoregressive_nn: Pyro's `AutoRegressiveNN` with its default ``param_dims=[1, 1]``.
        kwargs: as for `AffineAutoregressive`.
    """

    float32_networks = ("arn",)  # may be compiled

    def _inverse(self, y: Tensor) -> Tensor:
        def solve(y_k: Tensor, parameters: Tensor) -> Tensor:
            mean, raw = parameters.split(1, -1)
            return (y_k - mean) * (-self._clipped(raw)).exp()

        x, parameters = invert_autoregressive(self.arn, solve, y)
        self._cached_log_scale = self._clipped(parameters[..., 1, :])
        return x

    def _inverse_stable(self, y: Tensor) -> Tensor:
        def solve(y_k: Tensor, parameters: Tensor) -> Tensor:
            mean, raw = parameters.split(1, -1)
            return mean + (y_k - mean) * (1 + (-raw - self.sigmoid_bias).exp())

        x, parameters = invert_autoregressive(self.arn, solve, y)
        self._cached_log_scale = self.logsigmoid(parameters[..., 1, :] + self.sigmoid_bias)
        return x

    def _clipped(self, log_scale: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return log_scale.clamp(self.log_scale_min_clip, self.log_scale_max_clip)
        return clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
