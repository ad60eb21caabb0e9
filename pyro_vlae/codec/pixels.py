"""Coding of pixels by the code path that samples them.

Encoder and decoder must compute the same probabilities bit by bit. A parallel pass rounds
differently from one that computes pixel after pixel, so both run the sampler
(`pyro_vlae.distributions.sampling.go_through`): the decoder pops each front's pixels from the
stack, the encoder supplies the true ones and pushes them at the end.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.distributions import Bernoulli, Independent
from torch import Tensor

from pyro_vlae.codec.container import CodecError
from pyro_vlae.codec.stack import Array, BitStack
from pyro_vlae.distributions import BernoulliEmission, PixelCNN
from pyro_vlae.distributions.emissions import DiscreteEmission
from pyro_vlae.distributions.sampling import Front, go_through

# Levels are coded in digits of this base: the encoder, which must keep all probabilities until
# it can push, then keeps 16 + 16 instead of 256 for each pixel.
BASE = 16
RAREST = 2.0**-30  # smallest probability of a level, so that each digit is possible

# Returns a digit of each symbol, ``(S,)``, given the probabilities ``(S, digits)`` and the digit's
# place value.
Digit = Callable[[Array, int], Array]


def push_pixels(stack: BitStack, likelihood: Any, x: Tensor, count: int) -> None:
    """Push the first ``count`` of images ``(N, C, H, W)``."""
    levels = emission_of(likelihood).levels
    pushed: list[tuple[Array, Array]] = []

    def record(table: Array, front: Front) -> Array:
        symbols = torch.bucketize(front.of(x)[:count].flatten(), levels).numpy()

        def digit(probabilities: Array, place: int) -> Array:
            digits = symbols // place % probabilities.shape[1]
            pushed.append((digits, probabilities))
            return digits

        return _in_digits(table, digit)

    _go_through(likelihood, x, count, record)
    for digits, probabilities in reversed(pushed):
        stack.push_levels(digits, probabilities)


def pop_pixels(stack: BitStack, likelihood: Any, like: Tensor, count: int) -> Tensor:
    """Pop the first ``count`` of images in the shape of ``like``; the others are zero."""

    def pop(table: Array, front: Front) -> Array:
        return _in_digits(table, lambda probabilities, place: stack.pop_levels(probabilities))

    return _go_through(likelihood, like, count, pop)


def emission_of(likelihood: Any) -> DiscreteEmission:
    """The emission of a likelihood, with the values that a pixel can take.

    Raises:
        CodecError: `push_pixels` cannot code images of this distribution.
    """
    if isinstance(likelihood, PixelCNN):
        emission = likelihood.emission
        if not isinstance(emission, DiscreteEmission):
            raise CodecError(
                "lossless coding needs an emission with finitely many levels and their "
                "probabilities, this PixelCNN has another one: use BernoulliEmission or "
                "DiscretizedLogisticEmission, or LossyCodec"
            )
        return emission
    if not isinstance(getattr(likelihood, "base_dist", None), Bernoulli):
        raise CodecError(
            f"lossless coding needs a PixelCNN or Bernoulli likelihood, got {likelihood}: use "
            "PixelCNNLikelihood or BernoulliLikelihood"
        )
    return BernoulliEmission()


def check_values(x: Tensor, levels: Tensor, tolerance: float = 0.0) -> None:
    """Raise a CodecError unless all pixels are levels (ascending), up to a tolerance."""
    nearest = levels[torch.bucketize(x - tolerance, levels).clamp(max=len(levels) - 1)]
    known = (nearest - x).abs() <= tolerance
    if not known.all():  # NaN is not known, either
        raise CodecError(
            f"pixels of this model have {len(levels)} values, {levels[0]:g} to {levels[-1]:g}, "
            f"those of the images also {x[~known][0].item():.9g}: binarize images for a binary "
            "model, and scale level k of 0..255 to exactly k / 127.5 - 1 for one of gray or color "
            "images"
        )


def _go_through(
    likelihood: Any, like: Tensor, count: int, choose: Callable[[Array, Front], Array]
) -> Tensor:
    """Choose the pixels of the first ``count`` of images in the shape of ``like``, front by front.

    Args:
        likelihood: a PixelCNN or Bernoulli likelihood.
        like: ``(N, C, H, W)``; images from ``count`` on will be zero.
        count: number of images to choose.
        choose: returns levels ``(S,)`` given their probabilities ``(S, L)``.
    """
    emission, image = emission_of(likelihood), torch.zeros_like(like)

    def choose_values(distribution: Any, pixels: Tensor, front: Front) -> Tensor:
        pixels = pixels.clone()
        turns = [front.channels]
        if distribution.event_shape and front.channels.start is None:
            # Channels that depend on each other, although the network sees them at once.
            turns = [slice(c, c + 1) for c in range(pixels.shape[1])]
        for channels in turns:
            table = emission.level_probabilities(distribution, pixels, channels)[:count]
            part = Front(front.rows, front.columns, channels)
            chosen = choose(table.flatten(0, -2).numpy(), part)
            values = emission.levels[torch.from_numpy(chosen).long()]
            pixels[:count, channels] = values.view(table.shape[:-1])
        return pixels[:, front.channels]

    if isinstance(likelihood, PixelCNN):
        return go_through(likelihood.network, emission, likelihood.context, image, choose_values)
    assert isinstance(likelihood, Independent)
    # Independent pixels: a single front.
    height, width = like.shape[-2:]
    rows, columns = torch.arange(height), torch.arange(width)
    front = Front(rows.repeat_interleave(width), columns.repeat(height), slice(None))
    distribution = Bernoulli(logits=likelihood.base_dist.logits.flatten(2).unsqueeze(2))
    return choose_values(distribution, image.flatten(2).unsqueeze(2), front).view_as(like)


def _in_digits(table: Array, digit: Digit) -> Array:
    """Choose levels given their probabilities ``(S, L)``, in one digit if there are few."""
    size, levels = table.shape
    if levels <= BASE:
        return digit(table.astype(np.float64), 1)
    # With float32, the coder's sums of probabilities may leave none for the last digit.
    wide = np.full((size, -(-levels // BASE) * BASE), RAREST)
    np.maximum(table, RAREST, out=wide[:, :levels])
    rows = wide.reshape(size, -1, BASE)
    high = digit(rows.sum(-1), BASE)
    level = BASE * high + digit(rows[np.arange(size), high], 1)
    return np.minimum(level, levels - 1)  # larger only in an altered file
