"""One torch optimizer for all parameters, behind Pyro's optimizer interface."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn


class JointOptim(PyroOptim):
    """A single torch optimizer over all parameters, for :class:`pyro.infer.SVI`.

    A step updates the parameters that SVI passes to it, and sets all gradients to None.

    Args:
        optim_constructor: a torch optimizer class, e.g. ``torch.optim.Adamax``.
        optim_args: its arguments, e.g. ``{"lr": 2e-3}``. ``foreach=True`` is added if the class
            takes it, unless ``fused`` is given.
        clip_norm: upper limit of the norm of all gradients together, or None.
        ema_decay: decay of a Polyak average of the parameters, or None. The average starts as a
            copy of the parameters after their first step; t steps later its decay is
            ``min(ema_decay, (1 + t) / (10 + t))``, which soon discards the early steps.

    Attributes:
        gradient_norm: norm of all gradients at the last step before clipping, a scalar tensor on
            the parameters' device; None before the first step.

    Raises:
        ValueError: ``clip_norm`` or ``ema_decay`` out of range.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.

    Example:
        >>> optimizer = JointOptim(torch.optim.Adamax, {"lr": 2e-3}, ema_decay=0.998)
        >>> svi = SVI(model, guide, optimizer, Trace_ELBO())
    """

    def __init__(
        self,
        optim_constructor: Callable[..., torch.optim.Optimizer],
        optim_args: dict[str, Any] | None = None,
        *,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None, got {clip_norm}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1) or be None, got {ema_decay}")
        optim_args = dict(optim_args or {})
        if "foreach" in inspect.signature(optim_constructor).parameters:
            optim_args.setdefault("foreach", not optim_args.get("fused"))
        super().__init__(optim_constructor, optim_args)
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.gradient_norm: Tensor | None = None
        # One group from the start: it checks the arguments and holds the learning rate.
        self._optimizer = optim_constructor([{"params": []}], **optim_args)
        self._names: dict[Tensor, str] = {}  # of all parameters, in the optimizer's order
        self._trained: set[Tensor] = set()
        self._averages: list[Tensor] = []
        self._steps = 0
        self._swapped = False

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Update ``params``, the set that SVI passes, along their gradients.

        Raises:
            RuntimeError: called inside :meth:`averaged`.
        """
        if self._swapped:
            raise RuntimeError(
                "the parameters hold their averages: leave `with optimizer.averaged()` "
                "before the next training step"
            )
        params = set(params)
        if not params <= self._trained:
            new = {_store_name(p): p for p in params if p not in self._names}
            self.register(sorted(new.items()))
            self._trained |= params
        gradients = []
        for parameter in self._names:
            if parameter not in params:
                parameter.grad = None
            elif parameter.grad is not None:
                gradients.append(parameter.grad)
        self.gradient_norm = get_total_norm(gradients)
        if self.clip_norm is not None:  # multiplies on the device: no host synchronization
            clip_grads_with_norm_(self._names, self.clip_norm, self.gradient_norm)
        self._optimizer.step(*args, **kwargs)
        if self.ema_decay is not None:
            self._update_averages(self.ema_decay)
        self._steps += 1
        self.drop_gradients()

    def register(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Fix the order and the names of parameters, to which a saved state refers.

        Parameters that are not registered join at their first step, under their names in Pyro's
        parameter store.

        Args:
            named_parameters: as ``module.named_parameters(prefix=...)`` gives them. Those that
                need no gradient are ignored; a known parameter takes the new name.

        Raises:
            ValueError: two parameters have the same name.
        """
        owners = {name: parameter for parameter, name in self._names.items()}
        for name, parameter in named_parameters:
            if not parameter.requires_grad:
                continue
            if owners.setdefault(name, parameter) is not parameter:
                raise ValueError(
                    f"two different parameters are called {name!r}: make a new JointOptim for "
                    "a new model, and call pyro.clear_param_store() if the old one is gone"
                )
            if parameter not in self._names:
                self._optimizer.param_groups[0]["params"].append(parameter)
            self._names[parameter] = name

    def drop_gradients(self) -> None:
        """Set the gradients of all known parameters to None."""
        self._optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """The learning rate of all parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer.param_groups[0]["lr"] = value

    @property
    def never_trained(self) -> list[str]:
        """Names of registered parameters that no step has included so far."""
        return [name for parameter, name in self._names.items() if parameter not in self._trained]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages into the parameters, in place, for the duration of a ``with`` block.

        Does nothing without an average or before the first step.
        """
        if self._swapped or not self._averages:
            yield
            return
        parameters = list(self._names)[: len(self._averages)]
        with torch.no_grad():
            current = [p.clone() for p in parameters]
            torch._foreach_copy_(parameters, self._averages)
        self._swapped = True
        try:
            yield
        finally:
            self._swapped = False
            with torch.no_grad():
                torch._foreach_copy_(parameters, current)

    def get_state(self) -> dict[str, Any]:
        """The optimizer's state; ``names`` and ``averages`` are in the order of the parameters."""
        return {
            "names": list(self._names.values()),
            "averages": list(self._averages),
            "steps": self._steps,
            "optimizer": self._optimizer.state_dict(),
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of a state from :meth:`get_state`, the learning rate included.

        Raises:
            ValueError: the state is not that of the registered parameters; nothing changes then.
        """
        names, saved = state_dict["names"], state_dict["optimizer"]
        if names != list(self._names.values()):
            differing = sorted(set(names) ^ set(self._names.values())) or ["another order"]
            raise ValueError(
                f"the state is not that of the registered parameters (first: {differing[0]!r}): "
                "register() the parameters of the model that it was saved with"
            )
        for index, (parameter, name) in enumerate(self._names.items()):
            values = [*saved["state"].get(index, {}).values(), *state_dict["averages"][index:][:1]]
            for value in values:
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(
                        f"the optimizer state of {name!r} has shape {tuple(value.shape)}, the "
                        f"parameter has {tuple(parameter.shape)}: it belongs to another model"
                    )
        self._optimizer.load_state_dict(copy.deepcopy(saved))
        self._steps = state_dict["steps"]
        if self.ema_decay is not None:
            pairs = zip(state_dict["averages"], self._names, strict=False)
            self._averages = [value.detach().to(p, copy=True) for value, p in pairs]

    def load(self, filename: str, map_location: Any = None) -> None:
        """Read a state that ``save`` wrote: tensors and numbers only, no pickled code."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    @torch.no_grad()
    def _update_averages(self, limit: float) -> None:
        parameters, known = list(self._names), len(self._averages)
        if known:
            decay = min(limit, (1 + self._steps) / (10 + self._steps))
            get_ema_multi_avg_fn(decay)(self._averages, parameters[:known], self._steps)
        self._averages += [p.detach().clone() for p in parameters[known:]]


def _store_name(parameter: Tensor) -> str:
    name = pyro.get_param_store().param_name(parameter)
    if name is None:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} is not in Pyro's parameter store: "
            "register() it under a name of your choice first"
        )
    return name
