"""Priors p(z): modules that return a Pyro distribution, built fresh at each call."""

from collections.abc import Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive, ComposeTransformModule
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.distributions.transforms import _InverseTransform

from pyro_vlae.distributions.temperature import check_temperature
from pyro_vlae.transforms import (
    IncrementalAffineAutoregressive,
    SpatialMeanOnlyAutoregressive,
    clear_cache,
    mean_only_autoregressive,
)
from pyro_vlae.transforms.checks import check_chain, warn_if_bounded
from pyro_vlae.transforms.tensors import TransformTensors, leaves, tensor_names


class StandardNormalPrior(nn.Module):
    """A factorized standard normal prior with event shape ``(code_dim,)``.

    Called with a ``temperature``, it returns a normal distribution with this standard deviation.

    Args:
        code_dim: dimensions of the code.

    Raises:
        ValueError: when called, the temperature is negative or not finite.
    """

    loc: Tensor

    def __init__(self, code_dim: int = 64) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.register_buffer("loc", torch.zeros(code_dim), persistent=False)

    def forward(self, temperature: float = 1.0) -> dist.TorchDistribution:
        return _noise(self.loc, temperature)


class FlowPrior(nn.Module):
    """An autoregressive-flow prior: ``eps = f(z)`` is standard normal, f autoregressive.

    When called, it returns a distribution with event shape ``(code_dim,)``; called with a
    ``temperature``, the distribution of codes whose noise eps has this standard deviation. Its
    ``log p(z) = log N(f(z)) + log |d f / d z|`` takes one parallel pass; sampling z inverts f,
    which is sequential over dimensions. Along the encoder path this prior equals an
    inverse-autoregressive-flow posterior, but it makes the generator deeper at no cost in training.

    Args:
        code_dim: dimensions of the code.
        layers: number of mean-only layers, each a ReLU MADE, in alternating order.
        hidden_dims: hidden layers of each MADE.
        transforms: Pyro transforms to use instead, in the order z -> eps, each cheap in its forward
            direction (`pyro.distributions.transforms.affine_autoregressive(code_dim)`,
            `spline_autoregressive(code_dim)`, ...). A stock `AffineAutoregressive` gets our faster
            inverse for the same network. A warning is issued for a transform without an inverse
            (the prior can then be trained and scored, but not sampled) and for one with a bounded
            range (p(z) then does not integrate to one). Tensors of transforms that are not modules,
            such as the permutation of `permute`, become buffers.

    Raises:
        ValueError: layers is less than 1, or a transform does not take codes of this size or, as
            the inverse of a planar flow, any codes but its own; when called, the temperature is
            negative or not finite.

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.2.
    """

    loc: Tensor

    def __init__(
        self,
        code_dim: int = 64,
        layers: int = 4,
        hidden_dims: Sequence[int] = (640, 640),
        transforms: Sequence[Transform] | None = None,
    ) -> None:
        super().__init__()
        self.code_dim = code_dim
        if transforms is None:
            transforms = [
                mean_only_autoregressive(code_dim, hidden_dims, reverse=bool(k % 2))
                for k in range(layers)
            ]
        if not transforms:
            raise ValueError(
                "a flow prior needs at least 1 layer, got 0: for none, use StandardNormalPrior"
            )
        self.transforms = [_with_fast_inverse(transform) for transform in transforms]
        check_chain(self.transforms, code_dim)
        self.learnable = nn.ModuleList(m for t in self.transforms for m in _modules_in(t))
        warn_if_bounded(self.transforms)
        others = {id(leaf): leaf for t in self.transforms for leaf in leaves(t)}.values()
        owners = [
            TransformTensors(leaf)
            for leaf in others
            if not isinstance(leaf, nn.Module) and tensor_names(leaf)
        ]
        if owners:  # otherwise, the fingerprints in compressed files must not change
            self.tensors = nn.ModuleList(owners)
        self.register_buffer("loc", torch.zeros(code_dim), persistent=False)

    def forward(self, temperature: float = 1.0) -> dist.TorchDistribution:
        self._clear_caches()
        for module in self.modules():
            if isinstance(module, TransformTensors):
                module.bind()
        base = _noise(self.loc, temperature)
        # The distribution's forward direction is eps -> z: the inverse transforms, last one first.
        inverses = [transform.inv for transform in reversed(self.transforms)]
        return dist.TransformedDistribution(base, inverses)

    def __getstate__(self) -> dict[str, Any]:
        self._clear_caches()
        return super().__getstate__()

    def _clear_caches(self) -> None:
        parts = [leaf for transform in self.transforms for leaf in leaves(transform)]
        clear_cache((*self.transforms, *parts, *self.modules()))


def spatial_flow_prior(
    code_shape: tuple[int, int, int] = (16, 8, 8),
    layers: int = 6,
    hidden_channels: Sequence[int] = (128, 128),
) -> FlowPrior:
    """The flow prior of the paper's color models: masked ConvNets on the code's feature maps.

    Its codes are flat, with event shape ``(C * H * W,)``. The order is reversed between layers.

    Args:
        code_shape: ``(C, H, W)`` of the code.
        layers: number of flow layers.
        hidden_channels: channels of the hidden layers of each ConvNet.

    Raises:
        ValueError: layers is less than 1.
    """
    transforms = [
        SpatialMeanOnlyAutoregressive(code_shape, hidden_channels, reverse=bool(k % 2))
        for k in range(layers)
    ]
    return FlowPrior(prod(code_shape), transforms=transforms)


def choose_prior(
    prior: str | nn.Module, code_shape: tuple[int, ...], layers: int, hidden: Sequence[int]
) -> nn.Module:
    """The prior with this name, or the given module, for codes ``(code_dim,)`` or ``(C, H, W)``."""
    if not isinstance(prior, str):
        return prior
    if prior == "normal":
        return StandardNormalPrior(prod(code_shape))
    if prior != "flow":
        raise ValueError(f'prior must be "flow", "normal", or a prior module, got {prior!r}')
    if len(code_shape) == 3:
        return spatial_flow_prior(code_shape, layers, hidden)
    return FlowPrior(prod(code_shape), layers, hidden)


def _noise(loc: Tensor, temperature: float) -> dist.TorchDistribution:
    """Normal noise whose standard deviation is the temperature; a point at temperature 0."""
    check_temperature(temperature)
    if temperature == 0:
        return dist.Delta(loc, event_dim=1)
    return dist.Normal(loc, torch.full_like(loc, temperature)).to_event(1)


def _modules_in(transform: Transform) -> list[nn.Module]:
    """The modules with a transform's parameters, also inside torch's compositions and inverses."""
    if isinstance(transform, nn.Module):
        return [transform]
    if isinstance(transform, ComposeTransform):
        return [module for part in transform.parts for module in _modules_in(part)]
    return _modules_in(transform.inv) if isinstance(transform, _InverseTransform) else []


def _with_fast_inverse(transform: Transform) -> Transform:
    """The same transform, with an inverse that does not need one pass per dimension."""
    if isinstance(transform, ComposeTransformModule):
        return ComposeTransformModule([_with_fast_inverse(part) for part in transform.parts])
    if type(transform) is not AffineAutoregressive:
        return transform
    return IncrementalAffineAutoregressive(
        transform.arn,
        log_scale_min_clip=transform.log_scale_min_clip,
        log_scale_max_clip=transform.log_scale_max_clip,
        sigmoid_bias=transform.sigmoid_bias,
        stable=transform.stable,
    )
