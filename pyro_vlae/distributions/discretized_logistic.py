"""Color values of 256 levels: a mixture of discretized logistics for each channel of a pixel.

References:
    Salimans et al., "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
    Likelihood and Other Modifications", 2017, arXiv:1701.05517, sections 2.1 and 2.2.
"""

from math import inf, log
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_vlae.distributions.temperature import check_temperature, sample_index

HALF_RANGE = 127.5  # level k of 0..255 has the value k / 127.5 - 1
HALF_LEVEL = 0.5 / HALF_RANGE
LEVELS = torch.arange(256, dtype=torch.float32) / HALF_RANGE - 1
MIN_LOG_SCALE = -7.0  # as in PixelCNN++; such a component covers only a level or two
_HALF = (torch.float16, torch.bfloat16)


class _PixelLevels(constraints.Constraint):
    """Values ``k / 127.5 - 1`` of the levels k = 0..255, up to a thousandth of a level."""

    is_discrete = True
    event_dim = 0
    hint = (
        "level k of 0..255 must have the value k / 127.5 - 1; scale uint8 images like this "
        "(as ImageSplit.batch does), and add no noise"
    )

    def check(self, value: Tensor) -> Tensor:
        level = HALF_RANGE * (value.to(torch.promote_types(value.dtype, torch.float32)) + 1)
        on_grid = (level - level.round()).abs() < 1e-3
        if value.dtype in _HALF:
            on_grid = (level.round() / HALF_RANGE - 1).to(value.dtype) == value
        return on_grid & (level > -0.5) & (level < 255.5)


pixel_levels = _PixelLevels()


class DiscretizedLogisticMixture(TorchDistribution):
    """The channels of a pixel, each a mixture of discretized logistics given those before it.

    The probability of a level is the logistic's mass within half a level of its value; levels 0 and
    255 include the tails. The means of a channel depend linearly on the values of the channels
    before it, as in PixelCNN++. Unlike in PixelCNN++, each channel chooses its own component of
    the mixture, so its parameters can come from a network that has seen the channels before it.

    Args:
        logits: weights of the K components, ``(*batch, C, K)``.
        means: ``(*batch, C, K)``, before the coupling, in the unit of the values.
        log_scales: ``(*batch, C, K)``, clamped to at least -7.
        coefficients: the coupling, ``(*batch, C (C - 1) / 2, K)``: of channel 1 to channel 0, of
            channel 2 to channels 0 and 1, and so on.
        validate_args: as in every Pyro distribution.

    The event shape is ``(C,)``; values are ``k / 127.5 - 1`` for level k of 0..255.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> logits, means, log_scales = torch.zeros(3, 8, 3, 10)
        >>> mixture = DiscretizedLogisticMixture(logits, means, log_scales, torch.zeros(8, 3, 10))
        >>> mixture.sample().shape, mixture.log_prob(mixture.sample()).shape
        (torch.Size([8, 3]), torch.Size([8]))
    """

    has_rsample = False
    arg_constraints = dict.fromkeys(
        ("logits", "means", "log_scales", "coefficients"),
        constraints.independent(constraints.real, 2),
    )
    support = constraints.independent(pixel_levels, 1)

    def __init__(
        self,
        logits: Tensor,
        means: Tensor,
        log_scales: Tensor,
        coefficients: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        channels, components = logits.shape[-2:]
        pairs = (*logits.shape[:-2], channels * (channels - 1) // 2, components)
        if not means.shape == log_scales.shape == logits.shape or coefficients.shape != pairs:
            raise ValueError(
                "logits, means and log_scales must have the same shape (*batch, C, K), and "
                f"coefficients (*batch, C (C - 1) / 2, K); got {tuple(logits.shape)}, "
                f"{tuple(means.shape)}, {tuple(log_scales.shape)} and {tuple(coefficients.shape)}"
            )
        self.logits, self.means = logits, means
        self.log_scales, self.coefficients = log_scales, coefficients
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogisticMixture":
        """The same distribution over a larger batch shape; nothing is copied."""
        new = self._get_checked_instance(DiscretizedLogisticMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            values = getattr(self, name)
            setattr(new, name, values.expand(batch_shape + values.shape[-2:]))
        super(DiscretizedLogisticMixture, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def channel_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each channel given those before it.

        Args:
            value: ``(*shape, C)``, broadcast against the batch shape.

        Returns:
            ``(*shape', C)`` nats.
        """
        if self._validate_args:
            self._validate_sample(value)
        if value.dtype in _HALF:  # up to a quarter of a level off the grid
            value = (HALF_RANGE * (value.float() + 1)).round() / HALF_RANGE - 1
        means = torch.stack([self._means(c, value) for c in range(value.shape[-1])], -2)
        log_scales = self.log_scales.clamp(min=MIN_LOG_SCALE)
        log_mass = _log_mass(value.unsqueeze(-1), means, log_scales)
        return (self.logits.log_softmax(-1) + log_mass).logsumexp(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of pixels ``(*shape, C)``: ``(*shape')`` nats."""
        return self.channel_log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size(), temperature: float = 1.0) -> Tensor:  # noqa: B008
        """Sample pixels: ``(*sample_shape, *batch, C)``, values on the grid of levels."""
        value = self.means.new_zeros(self._extended_shape(sample_shape))
        for channel in range(value.shape[-1]):
            value[..., channel] = self.sample_channel(channel, value, temperature)
        return value

    @torch.no_grad()
    def sample_channel(self, channel: int, value: Tensor, temperature: float = 1.0) -> Tensor:
        """Sample one channel given those before it.

        Args:
            channel: index of the channel, from 0.
            value: ``(*shape, C)``, broadcast against the batch shape; only the channels before
                this one matter.
            temperature: T, at least 0: the probabilities of the 256 levels are raised to the power
                1 / T and normalized again; 1 samples exactly, 0 chooses the most probable level.

        Returns:
            ``(*shape')``.
        """
        check_temperature(temperature)
        means = self._means(channel, value)
        if temperature != 1:
            index = sample_index(self._level_logits(channel, means), temperature)
            return index.to(means.dtype) / HALF_RANGE - 1
        logits, log_scales = (
            p[..., channel, :].expand_as(means) for p in (self.logits, self.log_scales)
        )
        # Choose the component by Gumbel-max, sample its logistic, and round to a level.
        component = (logits - (-_uniform(logits).log()).log()).argmax(-1, keepdim=True)
        mean = means.gather(-1, component).squeeze(-1)
        scale = log_scales.gather(-1, component).squeeze(-1).clamp(min=MIN_LOG_SCALE).exp()
        sampled = mean + scale * _uniform(mean).logit()
        level = (HALF_RANGE * (sampled + 1)).round().clamp(0, 255)
        return level / HALF_RANGE - 1

    @torch.no_grad()
    def level_probabilities(self, channel: int, value: Tensor) -> Tensor:
        """Probability of each level of a channel given those before it.

        They are differences of the distribution function at the ends of the levels. This is several
        times faster than `channel_log_prob` of each level, and the rounding errors are of the
        order of 1e-7, whatever the probability.

        Args:
            channel: index of the channel, from 0.
            value: as in `sample_channel`.

        Returns:
            ``(*shape', 256)``, not negative.
        """
        means = self._means(channel, value)
        weights = self.logits[..., channel, :].softmax(-1).expand_as(means)
        log_scales = self.log_scales[..., channel, :].clamp(min=MIN_LOG_SCALE)
        inverse_scales = (-log_scales).exp().expand_as(means)
        ends = (torch.arange(255, dtype=means.dtype, device=means.device) + 0.5) / HALF_RANGE - 1
        below = means.new_zeros(*means.shape[:-1], 257)
        below[..., -1] = 1
        # One component after the other: all at once would take K times the memory.
        for k in range(means.shape[-1]):
            weight, mean, inverse = (p[..., k : k + 1] for p in (weights, means, inverse_scales))
            below[..., 1:-1].addcmul_(weight, ((ends - mean) * inverse).sigmoid_())
        return below.diff(dim=-1).clamp_(min=0)

    def _level_logits(self, channel: int, means: Tensor) -> Tensor:
        """Log-probability of each level given the channels before it: ``(*shape', 256)``."""
        levels = torch.arange(256, dtype=means.dtype, device=means.device) / HALF_RANGE - 1
        weights = self.logits[..., channel, :].log_softmax(-1).expand_as(means)
        log_scales = self.log_scales[..., channel, :].clamp(min=MIN_LOG_SCALE).expand_as(means)
        total = means.new_full((*means.shape[:-1], 256), -inf)
        # One component after the other: all at once would take K times the memory.
        for k in range(means.shape[-1]):
            weight, mean, log_scale = (p[..., k : k + 1] for p in (weights, means, log_scales))
            total = torch.logaddexp(total, weight + _log_mass(levels, mean, log_scale))
        return total

    def _means(self, channel: int, value: Tensor) -> Tensor:
        """Means of a channel's components given the channels before it: ``(*shape', K)``."""
        first = channel * (channel - 1) // 2
        coefficients = self.coefficients[..., first : first + channel, :]
        shift = (coefficients * value[..., :channel, None]).sum(-2)
        return self.means[..., channel, :] + shift


def _uniform(like: Tensor) -> Tensor:
    """Uniform noise, 0 and 1 excluded."""
    limits = torch.finfo(like.dtype)
    return torch.rand_like(like).clamp(limits.tiny, 1 - limits.eps)


def _log_mass(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the mass that a logistic puts on the level of each value.

    If a and b are the ends of the level, standardized by mean and scale, then ``sigmoid(b) -
    sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))``. This avoids the difference of nearly
    equal numbers, so no approximation is needed in any range.
    """
    inverse = (-log_scale).exp()
    low = (value - mean - HALF_LEVEL) * inverse
    high = (value - mean + HALF_LEVEL) * inverse
    below, above = F.logsigmoid(high), F.logsigmoid(-low)
    log_width = -log_scale - log(HALF_RANGE)
    inner = below + above + _log_one_minus_exp(log_width)
    return torch.where(
        value < -1 + HALF_LEVEL, below, torch.where(value > 1 - HALF_LEVEL, above, inner)
    )


def _log_one_minus_exp(log_x: Tensor) -> Tensor:
    """``log(1 - exp(-x))`` from log x for x > 0, accurate even if x underflows."""
    x = log_x.exp()
    small = x < 1e-3
    series = log_x - x / 2 + x.square() / 24
    # Each branch gets harmless inputs where the other is used: gradients pass through both.
    return torch.where(small, series, (-(-x.where(~small, 1.0)).expm1()).log())
