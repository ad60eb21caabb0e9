"""Coding of pixels by the code path that samples them.

Encoder and decoder must compute the same probabilities bit by bit. A parallel pass rounds
differently from one that computes pixel after pixel, so both run the sampler
(`pyro_vlae.distributions.sampling.go_through`): the decoder pops each front's pixels from the
stack, the encoder supplies the true ones and pushes them at the end.
"""

from typing import Any

import numpy as np
import torch
from pyro.distributions import Bernoulli, Independent
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import constraints

from pyro_vlae.codec.container import CodecError
from pyro_vlae.codec.stack import Array, BitStack
from pyro_vlae.distributions import PixelCNN
from pyro_vlae.distributions.sampling import Choose, Front, go_through


def push_pixels(stack: BitStack, likelihood: Any, x: Tensor, count: int) -> None:
    """Push the first ``count`` of images ``(N, C, H, W)``."""
    symbols: list[Array] = []
    probabilities: list[Array] = []

    def record(distribution: Any, pixels: Tensor, front: Front) -> Tensor:
        values = front.of(x)
        probabilities.append(_probabilities(distribution, count))
        symbols.append(values[:count].flatten().numpy())
        return values

    _go_through(likelihood, x, record)
    stack.push_bits(np.concatenate(symbols), np.concatenate(probabilities))


def pop_pixels(stack: BitStack, likelihood: Any, like: Tensor, count: int) -> Tensor:
    """Pop the first ``count`` of images in the shape of ``like``; the others are zero."""

    def pop(distribution: Any, pixels: Tensor, front: Front) -> Tensor:
        values = torch.zeros_like(front.of(like))
        popped = stack.pop_bits(_probabilities(distribution, count))
        values[:count] = torch.from_numpy(popped).view_as(values[:count])
        return values

    return _go_through(likelihood, like, pop)


def check_likelihood(likelihood: Any) -> None:
    """Raise a CodecError unless `push_pixels` can code images of this distribution."""
    if isinstance(likelihood, PixelCNN):
        support = likelihood.emission.support
        if support.is_discrete and support is not constraints.boolean:
            raise CodecError(
                f"lossless coding needs binary pixels, those of this model are {support}: use "
                "LossyCodec"
            )
    elif not isinstance(getattr(likelihood, "base_dist", None), Bernoulli):
        raise CodecError(
            f"lossless coding needs a PixelCNN or Bernoulli likelihood, got {likelihood}: use "
            "PixelCNNLikelihood or BernoulliLikelihood"
        )


def _go_through(likelihood: Any, like: Tensor, choose: Choose) -> Tensor:
    """Choose the pixels of images in the shape of ``like``, front by front."""
    image = torch.zeros_like(like)
    if isinstance(likelihood, PixelCNN):
        return go_through(
            likelihood.network, likelihood.emission, likelihood.context, image, choose
        )
    assert isinstance(likelihood, Independent)
    # Independent pixels: a single front.
    height, width = like.shape[-2:]
    rows, columns = torch.arange(height), torch.arange(width)
    front = Front(rows.repeat_interleave(width), columns.repeat(height), slice(None))
    distribution = Bernoulli(logits=likelihood.base_dist.logits.flatten(2).unsqueeze(2))
    return choose(distribution, image, front).view_as(like)


def _probabilities(distribution: Any, count: int) -> Array:
    """The probability of 1 of each pixel of a front, for the first ``count`` images, flat."""
    if not isinstance(distribution, TorchBernoulli):
        raise CodecError(
            f"lossless coding needs binary pixels, the network emits {type(distribution).__name__}"
        )
    return distribution.probs[:count].flatten().numpy()
