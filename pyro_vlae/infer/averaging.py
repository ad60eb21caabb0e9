"""A running (Polyak) average of parameters during training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class RunningAverage:
    """Exponential moving average of a list of tensors, updated all at once.

    It starts as a copy of the parameters after their first step, so that data-dependent
    initialization is behind it, and then follows
    ``average <- d average + (1 - d) parameter`` with ``d = min(decay, (1 + t) / (10 + t))``,
    ``t`` the number of earlier steps: the warm-up forgets the first steps quickly.

    Args:
        decay: in ``[0, 1)``; the VLAE paper uses 0.998.

    Attributes:
        values: the averages of the first ``len(values)`` parameters.

    Raises:
        ValueError: decay out of range.

    References:
        Acceleration of stochastic approximation by averaging, Polyak and Juditsky, 1992.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the average's decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.values: list[Tensor] = []

    @torch.no_grad()
    def update(self, parameters: list[Tensor], steps: int) -> None:
        """Take in the parameters after a step; ``steps`` counts it, new ones stand at the end."""
        known = len(self.values)
        if known:
            torch._foreach_lerp_(self.values, parameters[:known], self.weight(steps))
        self._extend(parameters, len(parameters))

    def weight(self, steps: int) -> float:
        """``1 - d`` of the step that is number ``steps``, from 1."""
        return 1 - min(self.decay, steps / (9 + steps))  # t = steps - 1

    @torch.no_grad()
    def blend(self, parameters: list[Tensor], weight: Tensor) -> None:
        """As `update`, with the weight in a scalar tensor and no new parameters: for a graph."""
        change = torch._foreach_sub(parameters[: len(self.values)], self.values)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(self.values, change)

    @torch.no_grad()
    def restore(self, parameters: list[Tensor], index: int, value: Tensor) -> None:
        """Set the average of the parameter at ``index``, the next without one, from a saved value.

        Earlier parameters that have no average yet start theirs from their present values.
        """
        self._extend(parameters, index)
        self.values.append(value.detach().to(parameters[index], copy=True))

    @contextmanager
    def swapped_into(self, parameters: list[Tensor]) -> Iterator[None]:
        """Parameters hold their averages, in place, for the length of a ``with`` block."""
        targets = list(parameters[: len(self.values)])
        if not targets:
            yield
            return
        with torch.no_grad():
            kept = [p.detach().clone() for p in targets]
            torch._foreach_copy_(targets, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(targets, kept)

    def _extend(self, parameters: list[Tensor], length: int) -> None:
        new = parameters[len(self.values) : length]
        self.values.extend(p.detach().clone() for p in new)
