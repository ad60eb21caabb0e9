"""What Pyro's transforms remember of their last call."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.distributions import Transform


def forget(parts: Iterable[Any]) -> None:
    """Let transforms forget their last input, output and log-determinant; skip other parts.

    After an optimizer step that memory is stale. Its graph cannot be copied, and it keeps what
    autograd has attached to parameters alive.
    """
    for step in parts:
        if isinstance(step, Transform):
            step._cached_x_y = (None, None)
            for name, value in vars(step).items():
                if name.startswith("_cache") and isinstance(value, Tensor):
                    setattr(step, name, None)
