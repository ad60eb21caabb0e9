"""One torch optimizer for all parameters, behind Pyro's optimizer interface."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pyro_vlae.infer.averaging import ParameterAverage
from pyro_vlae.infer.distributed import broadcast, sum_over_ranks


class JointOptim(PyroOptim):
    """A single torch optimizer over all parameters, for :class:`pyro.infer.SVI`.

    Each step updates the parameters that SVI passes to it and sets all gradients to None. In a
    process group of `torch.distributed`, gradients are first summed over all ranks, which must
    train the same parameters in each step; new parameters take their values from rank 0.

    Args:
        optim_constructor: a torch optimizer class, e.g. ``torch.optim.Adamax``.
        optim_args: its arguments, e.g. ``{"lr": 2e-3}``. ``foreach=True`` is added if the class
            takes it, unless ``fused`` is given.
        clip_norm: upper limit of the joint norm of all gradients, or None.
        ema_decay: decay of a Polyak average of the parameters, or None; after step t it is at
            most ``(1 + t) / (10 + t)``, so that the early steps are soon forgotten.
        learning_rate_factors: factors by which to multiply the learning rate of parameters whose
            names have a prefix, e.g. ``{"model.likelihood.": 4.0}``; the longest prefix counts.

    Attributes:
        learning_rate: learning rate of the next step, before the factors; may be set.
        gradient_norm: norm of all gradients at the last step before clipping, a scalar tensor on
            the parameters' device; None before the first step.
        summed: None, or a vector that a step sums over the ranks along with the gradients.

    Raises:
        ValueError: a number is out of range; at the first step, a prefix matches no parameter.

    Example:
        >>> optimizer = JointOptim(torch.optim.Adamax, {"lr": 2e-3}, ema_decay=0.998)
        >>> svi = SVI(model, guide, optimizer, Trace_ELBO())
    """

    def __init__(
        self,
        optim_constructor: Callable[..., torch.optim.Optimizer],
        optim_args: Mapping[str, Any],
        *,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        learning_rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None, got {clip_norm}")
        factors = {"": 1.0, **(learning_rate_factors or {})}
        if not all(0 < factor < math.inf for factor in factors.values()):
            given = learning_rate_factors
            raise ValueError(f"learning_rate_factors must be positive and finite, got {given}")
        if callable(optim_args):
            raise ValueError(
                "JointOptim takes one mapping of arguments for all parameters, not a function of "
                "each parameter: different learning rates are set by learning_rate_factors, a "
                "mapping from prefixes of names to factors"
            )
        options = dict(optim_args)
        if "foreach" in inspect.signature(optim_constructor).parameters:
            options.setdefault("foreach", not options.get("fused"))
        super().__init__(optim_constructor, options)
        groups = [{"params": [], "prefix": prefix, "factor": f} for prefix, f in factors.items()]
        self._optimizer = optim_constructor(groups, **options)
        self.name = type(self._optimizer).__name__
        self.learning_rate: float = self._optimizer.defaults["lr"]
        self.clip_norm, self.ema_decay = clip_norm, ema_decay
        self._average = ParameterAverage(ema_decay)
        self.gradient_norm: Tensor | None = None
        self.summed: Tensor | None = None
        self._names: dict[Tensor, str] = {}  # in the order of registration
        self._trained: set[Tensor] = set()
        self._steps = 0

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Update ``params``, the set that SVI passes, by their gradients."""
        if self._average.in_place:
            raise RuntimeError("leave `with optimizer.averaged()` before the next training step")
        params = set(params)
        if new := params - self._trained:
            name = pyro.get_param_store().param_name
            late = {str(name(p)): p for p in new - self._names.keys()}
            self.register(sorted(late.items()))  # the order of a set is not reproducible
            self._trained |= new
            broadcast([p for p in self._names if p in new])
        for group in self._optimizer.param_groups:
            group["lr"] = group["factor"] * self.learning_rate
            if self._steps == 0 and group["prefix"] and not group["params"]:
                raise ValueError(
                    f"the prefix {group['prefix']!r} of learning_rate_factors matches no "
                    f"parameter; their names are like {next(iter(self._names.values()))!r}"
                )
        for parameter in self._names.keys() - params:
            parameter.grad = None
        gradients = [p.grad for p in self._names if p.grad is not None]
        sum_over_ranks([*gradients, *([] if self.summed is None else [self.summed])])
        self.gradient_norm = get_total_norm(gradients)
        if self.clip_norm is not None:  # multiplies on the device: no host synchronization
            clip_grads_with_norm_(self._names, self.clip_norm, self.gradient_norm)
        self._optimizer.step(*args, **kwargs)
        self._optimizer.zero_grad()
        self._average.update(self._names, self._steps)
        self._steps += 1

    def register(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Fix the names and the order of parameters; others are added at their first step.

        Args:
            named_parameters: as returned by ``module.named_parameters()``. Those that need no
                gradient are ignored; a registered parameter takes the new name.

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
                groups = (g for g in self._optimizer.param_groups if name.startswith(g["prefix"]))
                max(groups, key=lambda group: len(group["prefix"]))["params"].append(parameter)
            self._names[parameter] = name

    @property
    def never_trained(self) -> list[str]:
        """Names of registered parameters that no step has included so far."""
        return [name for parameter, name in self._names.items() if parameter not in self._trained]

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averages, if any, into the parameters for the duration of a ``with`` block."""
        return self._average.swapped()

    def keep_averages(self) -> None:
        """Replace the parameters by their averages, if there are any, in place."""
        self._average.assign()

    def get_state(self) -> dict[str, Any]:
        """Return the state of the optimizer, by the names of the parameters."""
        state, names = self._optimizer.state, self._names.items()
        return {
            "shapes": {name: tuple(p.shape) for p, name in names},
            "state": {name: dict(state[p]) for p, name in names if p in state},
            "averages": {self._names[p]: average for p, average in self._average.values.items()},
            "steps": self._steps,
            "learning_rate": self.learning_rate,
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Restore a copy of a state returned by :meth:`get_state`.

        Raises:
            ValueError: the state does not belong to the registered parameters; nothing is changed.
        """
        theirs, ours = state_dict["shapes"], self.get_state()["shapes"]
        if differing := [n for n in ours | theirs if ours.get(n) != theirs.get(n)]:
            raise ValueError(
                f"the state is not that of the registered parameters: {differing[0]!r} has shape "
                f"{theirs.get(differing[0])} in the state and {ours.get(differing[0])} here; "
                "register() the parameters of the model that it was saved with"
            )
        saved = copy.deepcopy(state_dict)
        order = [self._names[p] for g in self._optimizer.param_groups for p in g["params"]]
        state = {i: saved["state"][name] for i, name in enumerate(order) if name in saved["state"]}
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        self.learning_rate, self._steps = saved["learning_rate"], saved["steps"]
        if self.ema_decay is not None:
            averages, names = saved["averages"], self._names.items()
            self._average.values = {p: averages[n].to(p) for p, n in names if n in averages}

    def load(self, filename: str, map_location: Any = None) -> None:
        """Restore a state written by ``save``: only tensors and numbers, no pickled code."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))
