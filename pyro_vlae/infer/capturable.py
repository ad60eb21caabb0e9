"""A `JointOptim` whose steps can be captured in a CUDA graph."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.infer.optim import JointOptim


class CapturableOptim(JointOptim):
    """`JointOptim` for `GraphedSVI`: nothing on the device depends on a Python number.

    A graph would freeze such numbers. The learning rate and the weight of the running average are
    written to the device before a step, and read from there by it. CUDA only.

    Args:
        optim_constructor: as for `JointOptim`; a class with ``capturable``: Adamax, Adam, AdamW.
        optim_args: as for `JointOptim`.
        **settings: keyword arguments of `JointOptim`.

    Raises:
        ValueError: the class has no ``capturable``, or as `JointOptim`.
        RuntimeError: on a step, the parameters are not on a GPU.
    """

    def __init__(
        self,
        optim_constructor: Callable[..., torch.optim.Optimizer],
        optim_args: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if "capturable" not in inspect.signature(optim_constructor).parameters:
            raise ValueError(
                f"{optim_constructor.__name__} cannot be captured; Adamax, Adam and AdamW can"
            )
        super().__init__(optim_constructor, {**(optim_args or {}), "capturable": True}, **settings)
        self._numbers: Tensor | None = None  # learning rate, weight of the average

    def write_numbers(self) -> None:
        """Put what depends on the number of steps where the next captured step reads it.

        Raises:
            RuntimeError: called inside `averaged`, or the parameters are not on a GPU.
        """
        self._check_not_swapped()
        if self._numbers is None:
            if not self._params[0].is_cuda:
                raise RuntimeError(
                    f"CapturableOptim is for CUDA, the parameters are on {self._params[0].device}: "
                    "move model and guide there, or use JointOptim"
                )
            self._numbers = torch.empty(2, device=self._params[0].device)
        weight = 0.0 if self._average is None else self._average.weight(self._steps + 1)
        numbers = torch.tensor([self.learning_rate * self._factor(), weight], pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)

    def captured_part(self) -> None:
        """All that a step does on the device, the same kernels every time."""
        if self._numbers is None:
            raise RuntimeError("call write_numbers() first")
        base = self.learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = self._numbers[0]
        try:
            self._clip()
            self._optimizer.step()
        finally:
            self.learning_rate = base
        if self._average is not None and len(self._average.values) == len(self._params):
            self._average.blend(self._params, self._numbers[1])
        elif self._average is not None:
            self._average.update(self._params, self._steps + 1)
        self.drop_gradients()

    def count_step(self) -> None:
        """Note that a captured step was replayed."""
        self._steps += 1

    def _move(self, *args: Any, **kwargs: Any) -> None:
        self.write_numbers()
        self.captured_part()
