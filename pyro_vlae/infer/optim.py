"""One torch optimizer for all parameters, behind Pyro's optimizer interface."""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pyro_vlae.infer.averaging import RunningAverage

AVERAGE = "average"


class JointOptim(PyroOptim):
    """A single torch optimizer over every parameter, for :class:`pyro.infer.SVI`.

    ``pyro.optim`` makes one torch optimizer per parameter; here one ``foreach`` step moves
    them all, with an optional guard on the global gradient norm and an optional running
    (Polyak) average. Gradients are ``None`` after a step. A parameter takes part in a step
    when it is among those that SVI passes and has a gradient; the others do not move.

    Args:
        optim_constructor: a torch optimizer class, e.g. ``torch.optim.Adamax``.
        optim_args: its arguments, e.g. ``{"lr": 2e-3}``. ``foreach=True`` is added where the
            class takes it, unless ``fused`` is asked for.
        clip_norm: largest allowed norm of all gradients together, ``None`` for no limit.
            Gradients are scaled on their device: nothing waits for a GPU.
        ema_decay: decay of the :class:`RunningAverage`, ``None`` for no average.
        schedule: factor on the learning rate as a function of the steps taken so far, ``None`` for
            a constant rate.

    Attributes:
        gradient_norm: norm of all gradients at the last step, before clipping, as a scalar
            tensor on the parameters' device; ``None`` before the first step.

    Raises:
        ValueError: ``clip_norm`` or ``ema_decay`` out of range.

    Example::

        decay = DecaySchedule(start=0.5)  # of pyro_vlae.training: a function of progress
        optimizer = JointOptim(
            torch.optim.Adamax, {"lr": 2e-3}, ema_decay=0.998,
            schedule=lambda step: decay(step / 10_000),
        )
        svi = SVI(model, guide, optimizer, Trace_ELBO())
    """

    def __init__(
        self,
        optim_constructor: Callable[..., torch.optim.Optimizer],
        optim_args: dict[str, Any] | None = None,
        *,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None, got {clip_norm}")
        optim_args = dict(optim_args or {})
        accepts_foreach = "foreach" in inspect.signature(optim_constructor).parameters
        if accepts_foreach and not optim_args.get("fused"):
            optim_args.setdefault("foreach", True)
        super().__init__(optim_constructor, optim_args)
        # Counts when other tensors came into use: what was captured of them is stale.
        self.generation = 0
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.gradient_norm: Tensor | None = None
        # The empty group checks the arguments now and holds the learning rate until
        # parameters come.
        self._optimizer = optim_constructor([{"params": []}], **optim_args)
        self._params: list[Tensor] = []
        self._names: dict[Tensor, str] = {}
        self._average = None if ema_decay is None else RunningAverage(ema_decay)
        self._steps = 0
        self._swapped = False
        self._waiting: dict[str, dict[str, Any]] = {}  # loaded state of parameters not seen yet
        self._seen: set[Tensor] = set()
        self._current: frozenset[Tensor] = frozenset()
        self._active: list[Tensor] = []
        self._idle: list[Tensor] = []

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Move ``params`` (the set that SVI passes) by one step along their gradients.

        Raises:
            RuntimeError: called inside :meth:`averaged`.
        """
        self._check_not_swapped()
        if self._current != params:
            self._select(frozenset(params))
        self._move(*args, **kwargs)
        self._steps += 1

    @property
    def current(self) -> frozenset[Tensor]:
        """The parameters that took part in the latest step."""
        return self._current

    def _check_not_swapped(self) -> None:
        if self._swapped:
            raise RuntimeError(
                "the parameters hold their averages: leave `with optimizer.averaged()` "
                "before the next training step"
            )

    def _move(self, *args: Any, **kwargs: Any) -> None:
        self._clip()
        base = self.learning_rate
        self.learning_rate = base * self._factor()
        try:
            self._optimizer.step(*args, **kwargs)
        finally:
            self.learning_rate = base
        if self._average is not None:
            self._average.update(self._params, self._steps + 1)
        self.drop_gradients()

    def _factor(self) -> float:
        return 1.0 if self.schedule is None else self.schedule(self._steps)

    def _clip(self) -> None:
        for parameter in self._idle:
            parameter.grad = None
        gradients = [p.grad for p in self._active if p.grad is not None]
        self.gradient_norm = get_total_norm(gradients)
        if self.clip_norm is not None:
            clip_grads_with_norm_(self._active, self.clip_norm, self.gradient_norm)

    def drop_gradients(self) -> None:
        """Forget the gradients of the parameters that took part in the latest step."""
        # Dropped, not zeroed: SVI would otherwise allocate and fill one tensor for each.
        for parameter in self._active:
            parameter.grad = None

    def register(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Fix the order and the names of parameters before the first step.

        Parameters that are not registered join when SVI first passes them, in the order of
        their names in Pyro's parameter store. The names key the saved state, so naming
        parameters by their place in a module makes it independent of the store's names.

        Args:
            named_parameters: as ``module.named_parameters(prefix=...)`` gives them. Those
                that need no gradient are left out; of several names of one tensor the
                first counts; a tensor that is known already takes the new name.

        Raises:
            ValueError: two different tensors under one name, or loaded state that waits for
                a name has another shape.
        """
        named: dict[Tensor, str] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                named.setdefault(parameter, name)
        self._adopt(named)

    @property
    def learning_rate(self) -> float:
        """The learning rate, before the schedule's factor; the same for all parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = value

    @property
    def never_moved(self) -> list[str]:
        """Names of registered parameters that no step has included so far."""
        return [self._names[p] for p in self._params if p not in self._seen]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages into the parameters, in place, for the length of a ``with`` block.

        Does nothing without an average or before the first step.

        Raises:
            RuntimeError: loaded averages still wait for parameters that are unknown.
        """
        if self._waiting and not self._params:
            raise RuntimeError(
                "the loaded averages belong to parameters that this optimizer has not seen: "
                "call register() with the parameters first"
            )
        if self._average is None or self._swapped:
            yield
            return
        with self._average.swapped_into(self._params):
            self._swapped = True
            try:
                yield
            finally:
                self._swapped = False

    def get_state(self) -> dict[str, Any]:
        """The state, keyed by parameter names; tensors are the live ones, not copies.

        Returns:
            A dict with ``parameters``, ``steps`` and ``learning_rate``. ``parameters`` holds, in
            the order of the parameters, one dict ``kind -> value`` for each name, where a kind
            is ``average`` or one of the torch optimizer's own, e.g. ``exp_avg``.
        """
        entries: dict[str, dict[str, Any]] = {}
        averages = iter(self._average.values if self._average else [])
        for parameter in self._params:
            entry = entries[self._names[parameter]] = dict(self._optimizer.state.get(parameter, {}))
            average = next(averages, None)
            if average is not None:
                entry[AVERAGE] = average
        return {
            "parameters": entries | self._waiting,
            "steps": self._steps,
            "learning_rate": self.learning_rate,
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take over a state from :meth:`get_state`; nothing changes if it does not fit.

        Entries of parameters that are not known yet wait until they are. Learning rate and
        step count are taken over too.

        Raises:
            ValueError: the state lacks a known parameter or holds another shape for it.
        """
        entries = dict(state_dict["parameters"])
        missing = [name for name in self._names.values() if name not in entries]
        if missing:
            raise ValueError(
                f"the optimizer state has no entry for {missing[0]!r} ({len(missing)} missing "
                f"of {len(self._names)}): it belongs to another model"
            )
        _check_shapes(entries, self._names)
        self.generation += 1
        self._steps = state_dict["steps"]
        self.learning_rate = state_dict["learning_rate"]
        if self._average is not None:
            self._average.values.clear()
        self._optimizer.state.clear()
        for index, parameter in enumerate(self._params):
            self._restore(index, entries.pop(self._names[parameter]))
        self._waiting = entries

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the state to a file, in one move."""
        path = Path(filename)
        temporary = path.with_name(path.name + ".tmp")
        torch.save(self.get_state(), temporary)
        os.replace(temporary, path)

    def load(self, filename: str | os.PathLike[str], map_location: Any = None) -> None:
        """Read the state from a file written by :meth:`save`, tensors and numbers only.

        Raises:
            ValueError: as for :meth:`set_state`.
        """
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    def _select(self, params: frozenset[Tensor]) -> None:
        """Note which parameters take part from now on; new ones join."""
        new = {p: _store_name(p) for p in params if p not in self._names}
        if new:
            place = {name: i for i, name in enumerate(self._waiting)}
            ordered = sorted(new.items(), key=lambda item: (place.get(item[1], math.inf), item[1]))
            self._adopt(dict(ordered))
        self._current = params
        self.generation += 1
        self._seen |= params
        self._active = [p for p in self._params if p in params]
        self._idle = [p for p in self._params if p not in params]

    def _adopt(self, named: Mapping[Tensor, str]) -> None:
        names = {**self._names, **named}
        owners: dict[str, Tensor] = {}
        for parameter, name in names.items():
            if owners.setdefault(name, parameter) is not parameter:
                raise ValueError(
                    f"two different parameters are called {name!r}: make a new JointOptim for "
                    "a new model, and call pyro.clear_param_store() if the old one is gone"
                )
        new = [p for p in named if p not in self._names]
        _check_shapes(self._waiting, {p: named[p] for p in new})
        self._names = names
        self._current = frozenset()  # the next step sorts out who takes part
        if new:
            self._optimizer.add_param_group({"params": new, "lr": self.learning_rate})
        for parameter in new:
            self._params.append(parameter)
            self._restore(len(self._params) - 1, self._waiting.pop(names[parameter], {}))

    def _restore(self, index: int, entry: Mapping[str, Any]) -> None:
        """Copy loaded state to the parameter at ``index``; shapes have been checked."""
        parameter = self._params[index]
        group = self._optimizer.param_groups[0]
        for kind, value in entry.items():
            if kind == AVERAGE:
                if self._average is not None:
                    self._average.restore(self._params, index, value)
                continue
            if isinstance(value, Tensor):
                # As torch does it: step counters stay on the CPU unless a kernel reads them.
                on_cpu = kind == "step" and not (group.get("capturable") or group.get("fused"))
                dtype = parameter.dtype if value.dim() else value.dtype
                device = torch.device("cpu") if on_cpu else parameter.device
                value = value.detach().to(device, dtype, copy=True)
            self._optimizer.state[parameter][kind] = value


def _store_name(parameter: Tensor) -> str:
    name = pyro.get_param_store().param_name(parameter)
    if name is None:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} is not in Pyro's parameter store: "
            "register() it under a name of your choice first"
        )
    return name


def _check_shapes(entries: Mapping[str, Mapping[str, Any]], names: Mapping[Tensor, str]) -> None:
    for parameter, name in names.items():
        for kind, value in entries.get(name, {}).items():
            if not isinstance(value, Tensor) or (kind != AVERAGE and value.dim() == 0):
                continue
            if value.shape != parameter.shape:
                raise ValueError(
                    f"the optimizer state {kind!r} of {name!r} has shape {tuple(value.shape)}, "
                    f"the parameter has {tuple(parameter.shape)}: it belongs to another model"
                )
