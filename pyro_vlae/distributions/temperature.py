"""Sampling at a temperature: 1 is the distribution itself, 0 is its mode."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal


def check_temperature(temperature: float) -> None:
    """Raise a ValueError unless the temperature is a finite number of at least 0."""
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature must be a number of at least 0, got {temperature}: 0 for the mode, "
            "1 for exact samples"
        )


@torch.no_grad()
def sample_at(distribution: Any, temperature: float) -> Tensor:
    """Sample a distribution at a temperature T: ``(*batch_shape, *event_shape)``.

    Probabilities of a discrete distribution are raised to the power 1 / T and normalized again. The
    standard deviation of a normal distribution is multiplied by T. A distribution whose ``sample``
    takes ``temperature``, such as `PixelCNN`, defines what it means. At T = 1, this is
    ``distribution.sample()``; T = 0 gives the mode.

    Raises:
        ValueError: the temperature is out of range, or the distribution is of none of these kinds.
    """
    check_temperature(temperature)
    if temperature == 1:
        return distribution.sample()
    if "temperature" in inspect.signature(distribution.sample).parameters:
        return distribution.sample(temperature=temperature)
    if isinstance(distribution, Independent):
        return sample_at(distribution.base_dist, temperature)
    if isinstance(distribution, Normal):
        return torch.normal(distribution.loc, temperature * distribution.scale)
    try:
        values = distribution.enumerate_support(expand=False)
    except NotImplementedError:
        values = None
    if values is None or distribution.event_shape:
        raise ValueError(
            f"a {type(distribution).__name__} can only be sampled at temperature 1, got "
            f"{temperature}: its values cannot be enumerated, and its method sample has no "
            "argument temperature"
        )
    logits = distribution.log_prob(values).movedim(0, -1)
    return values.flatten()[sample_index(logits, temperature)]


def sample_index(logits: Tensor, temperature: float) -> Tensor:
    """Sample indices from logits ``(*batch, V)`` divided by the temperature: ``(*batch,)``."""
    if temperature == 0:
        return logits.argmax(-1)
    # The largest logit becomes 0, so that a tiny temperature cannot overflow.
    centered = logits - logits.amax(-1, keepdim=True)
    limits = torch.finfo(logits.dtype)
    return Categorical(logits=centered / min(max(temperature, limits.tiny), limits.max)).sample()
