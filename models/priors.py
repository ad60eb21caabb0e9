"""Priors p(z): modules that return a Pyro distribution, built fresh at each call."""

from collections.abc import Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vlae.transforms import (
    IncrementalAffineAutoregressive,
    SpatialMeanOnlyAutoregressive,
    mean_only_autoregressive,
)
from pyro_vlae.transforms.memory import forget


class StandardNormalPrior(nn.Module):
    """The factorized standard normal, event shape ``(code_dim,)``."""

    loc: Tensor

    def __init__(self, code_dim: int = 64) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.register_buffer("loc", torch.zeros(code_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


class FlowPrior(nn.Module):
    """An autoregressive-flow prior: ``eps = f(z)`` is standard normal, f autoregressive.

    ``log p(z) = log N(f(z)) + log |d f / d z|`` takes one parallel pass whichever steps are used;
    drawing z inverts f, which is sequential over dimensions. Along the encoder path this prior
    equals an inverse-autoregressive-flow posterior, but it makes the generator deeper at no cost
    in training.

    Args:
        code_dim: dimensions of the code.
        steps: number of default steps: mean-only, a ReLU MADE each, order reversed between steps.
        hidden_dims: hidden layers of each default step's MADE.
        transforms: use these Pyro transforms instead, in the order z -> eps, each of them cheap in
            its forward direction (`pyro.distributions.transforms.affine_autoregressive(code_dim)`,
            `spline_autoregressive(code_dim)`, ...). A stock `AffineAutoregressive` is given our
            faster inverse, around the same network.

    Calling it returns a distribution with event shape ``(code_dim,)``.

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.2.
    """

    loc: Tensor

    def __init__(
        self,
        code_dim: int = 64,
        steps: int = 4,
        hidden_dims: Sequence[int] = (640, 640),
        transforms: Sequence[Transform] | None = None,
    ) -> None:
        super().__init__()
        self.code_dim = code_dim
        if transforms is None:
            transforms = [
                mean_only_autoregressive(code_dim, hidden_dims, reverse=bool(k % 2))
                for k in range(steps)
            ]
        self.transforms = [_with_fast_inverse(step) for step in transforms]
        self.learnable = nn.ModuleList(t for t in self.transforms if isinstance(t, nn.Module))
        self.register_buffer("loc", torch.zeros(code_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        forget((*self.transforms, *self.modules()))
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        # eps -> z is the distribution's forward direction: the inverse steps, last one first.
        inverses = [step.inv for step in reversed(self.transforms)]
        return dist.TransformedDistribution(base, inverses)

    def __getstate__(self) -> dict[str, Any]:
        forget((*self.transforms, *self.modules()))
        return super().__getstate__()


def spatial_flow_prior(
    code_shape: tuple[int, int, int] = (16, 8, 8),
    steps: int = 6,
    hidden_maps: Sequence[int] = (128, 128),
) -> FlowPrior:
    """The flow prior of the paper's color models: masked ConvNets on the code's maps.

    Its codes are flat, event shape ``(C * H * W,)``; the order is reversed between steps.

    Args:
        code_shape: ``(C, H, W)`` of the code.
        steps: number of steps.
        hidden_maps: maps of the hidden layers of each step.
    """
    transforms = [
        SpatialMeanOnlyAutoregressive(code_shape, hidden_maps, reverse=bool(k % 2))
        for k in range(steps)
    ]
    return FlowPrior(prod(code_shape), transforms=transforms)


def _with_fast_inverse(step: Transform) -> Transform:
    """The same step with an inverse that does not take a pass per dimension."""
    if type(step) is not AffineAutoregressive:
        return step
    return IncrementalAffineAutoregressive(
        step.arn,
        log_scale_min_clip=step.log_scale_min_clip,
        log_scale_max_clip=step.log_scale_max_clip,
        sigmoid_bias=step.sigmoid_bias,
        stable=step.stable,
    )
