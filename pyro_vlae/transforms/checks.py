"""Checks of the transforms that a flow is made of."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.transforms import BlockAutoregressive, LeakyReLUTransform
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform, constraints
from torch.distributions.transforms import IndependentTransform, _InverseTransform

from pyro_vlae.transforms.mean_only import MeanOnlyAutoregressive
from pyro_vlae.transforms.spatial import SpatialMeanOnlyAutoregressive


def check_chain(transforms: Sequence[Transform], code_dim: int) -> None:
    """Map one code to noise and back, the only way to find out what a Pyro transform can do.

    Raises:
        ValueError: a transform takes codes of another size, or only its own samples.
    """
    values = torch.zeros(1, code_dim)
    changed = None  # the transform that changed the shape
    for transform in transforms:
        if isinstance(transform, MeanOnlyAutoregressive | SpatialMeanOnlyAutoregressive):
            continue
        # A copy, in evaluation mode: batch normalization would learn from this code.
        copied = copy.deepcopy(transform)
        if isinstance(copied, nn.Module):
            copied.eval()
            values = values.to(next(copied.parameters(), values))
        try:
            with torch.no_grad():
                after = copied(values)
        except (NotImplementedError, KeyError) as error:
            raise ValueError(
                f"the inverse of {_kind(transform)} maps no codes to noise, so p(z) cannot be "
                "computed: pass the transform itself, not its inverse"
            ) from error
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise _another_size(transform, code_dim) from error
        changed = changed if after.shape == values.shape else transform
        _warn_unless_invertible(copied, after)
        values = after
    if values.shape != (1, code_dim):
        raise _another_size(changed, code_dim)


def _another_size(transform: Transform | None, code_dim: int) -> ValueError:
    return ValueError(
        f"{type(transform).__name__} does not take codes of {code_dim} dimensions, the code_dim of "
        f"this prior: make the transform for {code_dim} dimensions"
    )


def _warn_unless_invertible(transform: Transform, values: Tensor) -> None:
    try:
        with torch.no_grad():
            transform.inv(values.clone())  # of other values than it has cached
    except (NotImplementedError, KeyError):  # what Pyro's classes raise
        warnings.warn(
            f"{type(transform).__name__} has no inverse: a prior with it can be trained and "
            "scored, but not sampled, so the model generates no images",
            UserWarning,
            stacklevel=4,
        )


def warn_if_bounded(transforms: Sequence[Transform]) -> None:
    """Warn if the transforms, one after the other, map codes to only a part of the noise space."""
    bounded = None  # the transform whose range the next ones do not leave
    for leaf in (leaf for transform in transforms for leaf in _in_order(transform)):
        if not _is_real(leaf.codomain) or _is_bounded_flow(leaf):
            bounded = leaf
        elif not _is_real(leaf.domain):  # such as a logit after a sigmoid
            bounded = None
    if bounded is None:
        return
    kind = _kind(bounded)
    way_out = "leave it out, or add its inverse as the last transform"
    if isinstance(bounded, BlockAutoregressive):
        kind += " without a residual connection"
        way_out = 'use block_autoregressive(..., residual="gated")'
    warnings.warn(
        f"{kind} has a bounded range, so p(z) does not integrate to one: {way_out}",
        UserWarning,
        stacklevel=3,
    )


def _kind(transform: Transform) -> str:
    """The name of a transform's class, or of the class of the one that it inverts."""
    return type(transform.inv if isinstance(transform, _InverseTransform) else transform).__name__


def _is_bounded_flow(transform: Transform) -> bool:
    """Whether this is a transform that is bounded although its codomain is said to be real."""
    if not isinstance(transform, BlockAutoregressive) or transform.residual is not None:
        return False
    return not isinstance(transform.T, LeakyReLUTransform)


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, type(constraints.independent(constraints.real, 1))):
        constraint = constraint.base_constraint
    parts = getattr(constraint, "cseq", None)  # of a CatTransform or a StackTransform
    return constraint is constraints.real if parts is None else all(map(_is_real, parts))


def _in_order(transform: Transform) -> list[Transform]:
    """The transforms of a composition, in the order in which they are applied."""
    if isinstance(transform, _InverseTransform):
        return [part.inv for part in reversed(_in_order(transform.inv))]
    if isinstance(transform, ComposeTransform):
        return [leaf for part in transform.parts for leaf in _in_order(part)]
    if isinstance(transform, IndependentTransform):
        return _in_order(transform.base_transform)
    return [transform]
