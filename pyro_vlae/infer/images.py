"""Checks of images that are scored or encoded."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vlae.distributions.emissions import check_support


def check_images(images: Any, name: str = "images", values: bool = True) -> None:
    """Raise a ValueError unless these are a tensor and, if ``values``, finite."""
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{name} must be a tensor of images (N, *event), got {type(images).__name__}: pass "
            "split.batch(slice(None)) for an ImageSplit, torch.from_numpy(x) for an array"
        )
    if values and not (finite := torch.isfinite(images)).all():
        bad = (~finite.reshape(len(images), -1).all(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(images)} images (first: "
            f"{name}[{bad[0]}]); leave these images out"
        )


def check_pixels(likelihood: Any, images: Tensor, known: Tensor | None = None) -> None:
    """Raise a ValueError unless a likelihood can generate these images.

    Args:
        likelihood: their distribution.
        images: ``(*batch, *event)``.
        known: the pixels that count, broadcastable to the images; all if None.
    """
    with suppress(NotImplementedError):  # some distributions have no support
        support = likelihood.support
        while isinstance(support, type(constraints.independent(constraints.real, 1))):
            support = support.base_constraint
        check_support(images, support, known)
