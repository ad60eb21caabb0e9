"""Lossy compression of images to codes and back.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, figures 1 and 2.
"""

from collections.abc import Callable
from typing import Any

from pyro import poutine
from torch import Tensor


def decompress(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> Tensor:
    """One random decompression of each image: ``z ~ q(z | x)``, ``x' ~ p(x | z)``.

    Args:
        model: called with x.
        guide: called with x.
        x: images ``(batch, *image_shape)``.

    Returns:
        Images of the same shape.
    """
    codes = poutine.trace(guide).get_trace(x)
    return poutine.replay(poutine.uncondition(model), trace=codes)(x)
