"""Clearing the caches of Pyro's transforms."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.distributions import Transform


def clear_cache(parts: Iterable[Any]) -> None:
    """Drop the cached input, output, and log-determinant of all transforms among these objects.

    They are stale after an optimizer step. Their autograd graph cannot be copied, and keeps alive
    what autograd has attached to parameters.
    """
    for part in parts:
        if isinstance(part, Transform):
            part._cached_x_y = (None, None)
            for name, value in vars(part).items():
                if name.startswith("_cache") and isinstance(value, Tensor):
                    setattr(part, name, None)
