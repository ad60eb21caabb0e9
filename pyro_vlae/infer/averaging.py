"""Polyak averages of parameters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ParameterAverage:
    """An exponential moving average of parameters.

    The average of a parameter starts as a copy of it. After step t the decay is
    ``min(decay, (1 + t) / (10 + t))``, so that the early steps are soon forgotten.

    Args:
        decay: in [0, 1), or None for no average.

    Attributes:
        values: the averages by parameter.
        in_place: whether the parameters hold their averages now.

    Raises:
        ValueError: the decay is out of range.
    """

    def __init__(self, decay: float | None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1) or be None, got {decay}")
        self._decay = decay
        self.values: dict[Tensor, Tensor] = {}
        self.in_place = False

    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        """Add the parameters after a step (counted from 0) to the averages."""
        if self._decay is None:
            return
        new = [p for p in parameters if p not in self.values]
        self.values |= {p: p.detach().clone() for p in new}
        update = get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))
        update(list(self.values.values()), list(self.values), step)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages, if any, into the parameters for the duration of a ``with`` block."""
        if self.in_place or not self.values:
            yield
            return
        current = {p: p.detach().clone() for p in self.values}
        self.in_place = True
        try:
            self.assign()
            yield
        finally:
            _copy(current)
            self.in_place = False

    def assign(self) -> None:
        """Replace the parameters by their averages, if there are any, in place."""
        if self.values:
            _copy(self.values)


@torch.no_grad()
def _copy(values: dict[Tensor, Tensor]) -> None:
    """Copy values into parameters, in place."""
    torch._foreach_copy_(list(values), list(values.values()))
