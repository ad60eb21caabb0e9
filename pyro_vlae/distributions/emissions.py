"""Emissions: functions from a network's parameters to the distribution of the pixels."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, constraints
from torch.distributions.constraints import Constraint

from pyro_vlae.distributions.discretized_logistic import (
    LEVELS,
    DiscretizedLogisticMixture,
    pixel_levels,
)

FIRST_LOG_SCALE = -2.0


class Emission(Protocol):
    """A function from parameters ``(N, P, H, W)`` to the distribution of pixels.

    Either its samples and log_prob have shape ``(N, C, H, W)``, or it has batch shape ``(N, H, W)``
    and event shape ``(C,)``. For a channel-autoregressive network it must also
    have a method ``sample_channel(channel, pixels)``, as in `DiscretizedLogisticMixture`. Sampling
    at a temperature other than 1 needs `enumerate_support` or, if there is an event shape, an
    argument ``temperature`` of ``sample`` and ``sample_channel``.
    """

    @property
    def support(self) -> Constraint:
        """The values that a channel of a pixel can take."""

    def __call__(self, parameters: Tensor) -> Distribution:
        """The distribution of the pixels."""


@runtime_checkable
class DiscreteEmission(Emission, Protocol):
    """An emission for lossless coding: each channel of a pixel takes one of finitely many values.

    Attributes:
        levels: these values, ascending, ``(L,)``, float32 on the CPU.
    """

    levels: Tensor

    def level_probabilities(self, distribution: Any, pixels: Tensor, channels: slice) -> Tensor:
        """The probability of each level.

        Args:
            distribution: what the emission returned for parameters ``(N, P, H, W)``.
            pixels: ``(N, C, H, W)``, with the channels before these.
            channels: all of them if they are independent, otherwise a single one.

        Returns:
            ``(N, c, H, W, L)``, not negative, with sum 1 up to rounding.
        """


class BernoulliEmission:
    """Binary pixels: the parameters are logits ``(N, C, H, W)``."""

    support = constraints.boolean
    levels = torch.tensor([0.0, 1.0])

    def __call__(self, parameters: Tensor) -> Bernoulli:
        """The distribution of the pixels."""
        return Bernoulli(logits=parameters)

    def level_probabilities(
        self, distribution: Bernoulli, pixels: Tensor, channels: slice
    ) -> Tensor:
        """See `DiscreteEmission`; 1 - p is computed in float64, so that both sum to one."""
        ones = distribution.probs[:, channels].double()
        return torch.stack((1 - ones, ones), -1)


class DiscretizedLogisticEmission:
    """Pixels of 256 levels: a `DiscretizedLogisticMixture` for each channel.

    The parameters ``(N, P, H, W)`` are, channel by channel, the K components' logits, means,
    log-scales, and one coefficient for each earlier channel, to which tanh is applied. Parameters
    of zero correspond to components spread evenly over the levels instead of K identical ones,
    which speeds up the start of training. Half precision is too coarse for the ends of a level:
    such parameters are converted to float32.

    Args:
        channels: channels C of the image.
    """

    support = pixel_levels
    levels = LEVELS

    def __init__(self, channels: int = 3) -> None:
        self.sizes = [3 + channel for channel in range(channels)]

    def __call__(self, parameters: Tensor) -> DiscretizedLogisticMixture:
        """The distribution of the pixels."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        by_kind = parameters.movedim(1, -1).unflatten(-1, (sum(self.sizes), -1))
        by_channel = [part.unbind(-2) for part in by_kind.split(self.sizes, -2)]
        logits, means, log_scales = (
            torch.stack([part[k] for part in by_channel], -2) for k in range(3)
        )
        coupling = [coefficient for part in by_channel for coefficient in part[3:]]
        coefficients = torch.stack(coupling, -2) if coupling else logits[..., :0, :]
        components = logits.shape[-1]
        places = torch.arange(components, dtype=means.dtype, device=means.device)
        spread = (2 * places + 1) / components - 1
        return DiscretizedLogisticMixture(
            logits, means + spread, log_scales + FIRST_LOG_SCALE, coefficients.tanh()
        )

    def level_probabilities(
        self, distribution: DiscretizedLogisticMixture, pixels: Tensor, channels: slice
    ) -> Tensor:
        """See `DiscreteEmission`."""
        table = distribution.level_probabilities(channels.start, pixels.movedim(1, -1))
        return table.unsqueeze(1)


class _NetworkEmission:
    """The emission that a network defines: its method ``emission`` and attribute ``support``."""

    def __init__(self, network: Any) -> None:
        self.support = getattr(network, "support", constraints.real)
        self._emission = network.emission
        # Lossless coding needs these, see `DiscreteEmission`.
        coded = BernoulliEmission() if self.support is constraints.boolean else network
        if hasattr(coded, "level_probabilities"):
            self.levels = coded.levels
            self.level_probabilities = coded.level_probabilities

    def __call__(self, parameters: Tensor) -> Distribution:
        return self._emission(parameters)


# Possible values of `PixelNetwork.outputs`; called with the number of image channels.
EMISSIONS: dict[str, Callable[[int], Emission]] = {
    "bernoulli_logits": lambda channels: BernoulliEmission(),
    "discretized_logistic_mixture": DiscretizedLogisticEmission,
}


def find_emission(network: nn.Module) -> Emission:
    """Return the emission that a network defines, or the one named by its ``outputs``.

    Raises:
        ValueError: the network has no method ``emission``, and ``outputs`` is not a known name.
    """
    if hasattr(network, "emission"):
        return _NetworkEmission(network)
    outputs = getattr(network, "outputs", None)
    if outputs not in EMISSIONS:
        raise ValueError(
            f"{type(network).__name__} does not define the meaning of its parameters: give it a "
            f"method emission(parameters) or an attribute outputs, one of {sorted(EMISSIONS)} "
            f"(it is {outputs!r}), or pass emission= to PixelCNN"
        )
    return EMISSIONS[outputs](int(network.image_channels))  # type: ignore[arg-type]


def check_support(value: Tensor, support: Constraint, where: Tensor | None = None) -> None:
    """Raise a ValueError if any value (where the mask ``where`` is true) is not in a support."""
    valid = support.check(value)
    if where is not None:
        valid = valid | ~where
    if not valid.all():
        wrong = value[~valid].flatten()
        hint = getattr(support, "hint", "check the scaling")
        if support is constraints.boolean:
            hint = "binarize gray images first (torch.bernoulli, or ImageSplit.batch)"
        if wrong.isnan().any():
            hint = "images hold NaN"
        raise ValueError(
            f"{wrong.numel()} of {value.numel()} pixel values are outside the support "
            f"{support}, the first one {wrong[0].item():.4g}: {hint}"
        )
