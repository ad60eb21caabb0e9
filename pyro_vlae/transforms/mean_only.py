"""Autoregressive transforms that shift but do not scale.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.2 and appendix.
    Germain et al., "MADE", 2015, arXiv:1502.03509.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from pyro_vlae.transforms.incremental import invert_autoregressive


class MeanOnlyAutoregressive(AffineAutoregressive):
    """The volume-preserving ``y = x + mean(x)``, where ``mean_i`` depends only on earlier x.

    Its log-determinant is 0, so density and gradients stay stable in deep flows. x -> y is one
    parallel pass; y -> x finds the dimensions one by one, at about the cost of one pass.

    Args:
        autoregressive_nn: a network with one output per input (``param_dims=[1]``) and a
            ``permutation`` that lists the inputs in autoregressive order.

    Raises:
        ValueError: the network has more than one output per input.
    """

    float32_networks = ("arn",)  # may be compiled

    def __init__(self, autoregressive_nn: AutoRegressiveNN) -> None:
        if autoregressive_nn.output_multiplier != 1:
            raise ValueError(
                "a mean-only transform needs an AutoRegressiveNN with param_dims=[1], got "
                f"param_dims={autoregressive_nn.param_dims}"
            )
        super().__init__(autoregressive_nn)

    def _call(self, x: Tensor) -> Tensor:
        return x + self.arn(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.invert(y, torch.sub)[0]

    def invert(self, y: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Find x with ``x_k = solve(y_k, mean_k(earlier x))`` for every dimension k.

        Args:
            y: ``(*batch, D)``.
            solve: computes x_k from y_k and its mean, all ``(N, 1)``.

        Returns:
            x and its means, ``(*batch, D)``; differentiable.
        """
        x, parameters = invert_autoregressive(self.arn, solve, y)
        return x, parameters[..., 0, :]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, of shape ``x.shape[:-1]``."""
        return x.new_zeros(x.shape[:-1])


def mean_only_autoregressive(
    input_dim: int, hidden_dims: Sequence[int] = (640, 640), reverse: bool = False
) -> MeanOnlyAutoregressive:
    """A mean-only transform whose network is a ReLU MADE with a fixed order.

    Args:
        input_dim: number of dimensions D.
        hidden_dims: sizes of the hidden layers, each at least D.
        reverse: use the order D-1..0 instead of 0..D-1.
    """
    order = torch.arange(input_dim).flip(0) if reverse else torch.arange(input_dim)
    network = AutoRegressiveNN(
        input_dim,
        list(hidden_dims),
        param_dims=[1],
        permutation=cast(torch.LongTensor, order),
        nonlinearity=nn.ReLU(),
    )
    for layer in network.layers:
        # The order determines the masks; saving them would double the size of weight files.
        layer.register_buffer("mask", cast(Tensor, layer.mask), persistent=False)
    return MeanOnlyAutoregressive(network)
