"""Priors p(z): modules that return a Pyro distribution, built fresh at each call."""

import copy
import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import (
    AffineAutoregressive,
    BlockAutoregressive,
    ComposeTransformModule,
    LeakyReLUTransform,
)
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform, constraints
from torch.distributions.transforms import IndependentTransform, _InverseTransform

from pyro_vlae.distributions.temperature import check_temperature
from pyro_vlae.transforms import (
    IncrementalAffineAutoregressive,
    MeanOnlyAutoregressive,
    SpatialMeanOnlyAutoregressive,
    clear_cache,
    mean_only_autoregressive,
)
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
        for transform in self.transforms:
            _warn_unless_invertible(transform, code_dim)
        self.learnable = nn.ModuleList(m for t in self.transforms for m in _modules_in(t))
        _warn_if_bounded(self.transforms)
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


def _warn_unless_invertible(transform: Transform, code_dim: int) -> None:
    """Try to invert one code, the only way to find out whether a Pyro transform has an inverse.

    Raises:
        ValueError: the transform takes codes of another size.
    """
    if isinstance(transform, MeanOnlyAutoregressive | SpatialMeanOnlyAutoregressive):
        return
    # A copy, in evaluation mode: batch normalization would learn from this code.
    transform = copy.deepcopy(transform)
    if isinstance(transform, nn.Module):
        transform.eval()
    like = next(transform.parameters(), None) if isinstance(transform, nn.Module) else None
    cause: Exception | None = None
    code = torch.zeros(1, code_dim) if like is None else like.new_zeros(1, code_dim)
    try:
        with torch.no_grad():
            fits = transform.inv(code).shape == code.shape
    except (NotImplementedError, KeyError):  # what Pyro's classes raise
        warnings.warn(
            f"{type(transform).__name__} has no inverse: a prior with it can be trained and "
            "scored, but not sampled, so the model generates no images",
            UserWarning,
            stacklevel=3,
        )
        return
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        fits, cause = False, error
    if fits:
        _check_forward(transform, code)
    else:
        raise ValueError(
            f"{type(transform).__name__} does not take codes of {code_dim} dimensions, the "
            f"code_dim of this prior: make the transform for {code_dim} dimensions"
        ) from cause


def _check_forward(transform: Transform, code: Tensor) -> None:
    try:
        with torch.no_grad():
            transform(code)
    except (NotImplementedError, KeyError) as error:
        kind = type(transform.inv if isinstance(transform, _InverseTransform) else transform)
        raise ValueError(
            f"the inverse of {kind.__name__} maps no codes to noise, so p(z) cannot be computed: "
            "pass the transform itself, not its inverse"
        ) from error


def _warn_if_bounded(transforms: Sequence[Transform]) -> None:
    """Warn unless the transforms, one after the other, map codes onto all of the noise space."""
    bounded = last = None  # bounded: the transform whose range the next ones cannot leave
    for leaf in (leaf for transform in transforms for leaf in _in_order(transform)):
        if not _is_real(leaf.codomain) or _is_bounded_flow(leaf):
            bounded = leaf
        elif not _is_real(leaf.domain) and last is bounded:  # such as a logit after a sigmoid
            bounded = None
        last = leaf
    if bounded is None:
        return
    kind = type(bounded.inv if isinstance(bounded, _InverseTransform) else bounded).__name__
    way_out = "leave it out, or add its inverse as the last transform"
    if isinstance(bounded, BlockAutoregressive):
        kind += " without a residual connection"
        way_out = 'use block_autoregressive(..., residual="gated")'
    warnings.warn(
        f"{kind} has a bounded range, so p(z) does not integrate to one: {way_out}",
        UserWarning,
        stacklevel=3,
    )


def _is_bounded_flow(transform: Transform) -> bool:
    """Whether this is a transform that is bounded although its codomain is said to be real."""
    if not isinstance(transform, BlockAutoregressive) or transform.residual is not None:
        return False
    return not isinstance(transform.T, LeakyReLUTransform)


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, type(constraints.independent(constraints.real, 1))):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def _in_order(transform: Transform) -> list[Transform]:
    """The transforms of a composition, in the order in which they are applied."""
    if isinstance(transform, _InverseTransform):
        return [part.inv for part in reversed(_in_order(transform.inv))]
    if isinstance(transform, ComposeTransform):
        return [leaf for part in transform.parts for leaf in _in_order(part)]
    if isinstance(transform, IndependentTransform):
        return _in_order(transform.base_transform)
    return [transform]


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
