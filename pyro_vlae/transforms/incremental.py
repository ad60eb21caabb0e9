"""Inversion of autoregressive transforms at about the cost of one dense pass.

The parameters of dimension k depend only on earlier dimensions, so the inverse finds one dimension
after the other. Running the whole network for each would cost D passes. But a hidden unit whose
inputs are all known never changes again. As soon as it is complete, its contribution is added to
all units that read it, so that every weight is used once: immediately for units in the same block
of dimensions, and in one matrix product per block for all later ones.
"""

from collections.abc import Callable
from typing import cast
from weakref import WeakKeyDictionary

import torch
from pyro.nn import AutoRegressiveNN, MaskedLinear
from torch import Tensor

from pyro_vlae.nn.threads import single_threaded
from pyro_vlae.nn.weight_norm import in_functional_transform

# Up to this many rows, the matrix products are too small to benefit from several threads.
SMALL_BATCH = 256
# Dimensions per block; one matrix product adds a block's contribution to later blocks.
BLOCK = 8


class _Stages:
    """Units sorted by the stage at which they are complete; at stage k, k dimensions are known."""

    def __init__(self, stage: Tensor, dims: int) -> None:
        self.stage = stage
        # Pyro's hidden units are already sorted, so their weights need not be copied.
        in_order = bool((stage.diff() >= 0).all())
        self.order = None if in_order else stage.argsort(stable=True)
        counts = stage.bincount(minlength=dims + 1)
        self.ends = [0, *counts.cumsum(0).tolist()]

    def reading(self, mask: Tensor, dims: int) -> "_Stages":
        """The stages of the units that read this layer through a mask ``(units, inputs)``."""
        return _Stages((mask * self.stage.to(mask.dtype)).amax(1).long(), dims)

    def units(self, first: int, last: int) -> slice:
        """The positions of the units that are completed at stages ``first..last - 1``."""
        return slice(self.ends[first], self.ends[last])


class _Schedule:
    """The order in which a network's units are computed, derived from its masks."""

    def __init__(self, network: AutoRegressiveNN) -> None:
        dims, self.order = network.input_dim, network.permutation
        self.rank = self.order.argsort()
        self.stages = [_Stages(self.rank + 1, dims)]
        for layer in network.layers[:-1]:
            self.stages.append(self.stages[-1].reading(cast(MaskedLinear, layer).mask, dims))
        # Outputs are stored parameter by parameter; sorted here by dimension, then parameter.
        parameters = torch.arange(network.output_multiplier, device=self.order.device)
        self.outputs = (self.order[:, None] + dims * parameters).flatten()
        self._made_from = self._sources(network)

    @staticmethod
    def _sources(network: AutoRegressiveNN) -> list[tuple[Tensor, int]]:
        masks = [cast(MaskedLinear, layer).mask for layer in network.layers]
        return [(t, -1 if t.is_inference() else t._version) for t in (network.permutation, *masks)]

    def fits(self, network: AutoRegressiveNN) -> bool:
        """Whether the network still has the masks from which the schedule was made.

        Edits through ``.data`` bypass PyTorch's version counter and are not noticed.
        """
        now = self._sources(network)
        same = (a is b and u == v for (a, u), (b, v) in zip(now, self._made_from, strict=False))
        return len(now) == len(self._made_from) and all(same)


# Made once for each network, because reading the masks synchronizes the host with a GPU.
_schedules: WeakKeyDictionary[AutoRegressiveNN, _Schedule] = WeakKeyDictionary()


def _schedule(network: AutoRegressiveNN) -> _Schedule:
    schedule = _schedules.get(network)
    if schedule is None or not schedule.fits(network):
        with torch.inference_mode(False):
            schedule = _schedules[network] = _Schedule(network)
    return schedule


def invert_autoregressive(
    network: AutoRegressiveNN, solve: Callable[[Tensor, Tensor], Tensor], y: Tensor
) -> tuple[Tensor, Tensor]:
    """Find x with ``y_k = g(x_k; parameters_k(earlier x))`` for every dimension k.

    Args:
        network: Pyro's `AutoRegressiveNN`, its ``param_dims`` all 1, its nonlinearity elementwise.
        solve: computes x_k ``(N, 1)`` from y_k ``(N, 1)`` and the P parameters of dimension k,
            ``(N, P)``.
        y: ``(*batch, D)``.

    Returns:
        x ``(*batch, D)`` and the network's parameters at x, ``(*batch, P, D)``; differentiable.
    """
    flat = y.reshape(-1, network.input_dim)
    with (
        single_threaded(len(flat) <= SMALL_BATCH and not y.is_cuda),
        torch.autocast(y.device.type, enabled=False),  # sums are added to in place
    ):
        x, parameters = _Inversion(network, solve, flat).run()
    return x.view(y.shape), parameters.view(*y.shape[:-1], *parameters.shape[1:])


class _Inversion:
    """One inversion; layers, units and dimensions are in the order in which they are completed.

    Layer l reads x if l = 0, else the units of hidden layer l - 1; the last layer returns the
    parameters. ``known[l]`` are its completed inputs, ``places[l]`` is the slice of the outputs
    completed in the current block, and ``sums[l]`` are these outputs so far.
    """

    def __init__(
        self, network: AutoRegressiveNN, solve: Callable[[Tensor, Tensor], Tensor], y: Tensor
    ) -> None:
        self.network, self.solve = network, solve
        self.schedule = schedule = _schedule(network)
        self.dims, self.groups = network.input_dim, network.output_multiplier
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        stages = schedule.stages
        targets = [*(stage.order for stage in stages[1:]), schedule.outputs]
        layers = [cast(MaskedLinear, layer) for layer in network.layers]
        for layer, source, target in zip(layers, stages, targets, strict=True):
            weight: Tensor = layer.weight * layer.mask
            bias: Tensor = layer.bias
            if target is not None:
                weight, bias = weight.index_select(0, target), bias[target]
            self.weights.append((weight if source.order is None else weight[:, source.order]).T)
            self.biases.append(bias)
        self.skip: Tensor | None = None
        if network.skip_layer is not None:
            skip = network.skip_layer.weight * network.skip_layer.mask
            self.skip = skip[schedule.outputs][:, schedule.order].T
        # In place is cheaper, but would overwrite tensors that autograd has saved.
        tensors = (y, *network.parameters())
        grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        self.add = torch.addmm if grad or in_functional_transform(*tensors) else Tensor.addmm_
        self.size = len(y)
        self.y = y[:, schedule.order].split(1, 1)
        self.known: list[list[Tensor]] = [[] for _ in self.weights]
        self.sums: list[Tensor] = []
        self.places: list[slice] = []

    def run(self) -> tuple[Tensor, Tensor]:
        """Return x ``(N, D)`` and the parameters at x, ``(N, P, D)``."""
        parameters = []
        for start in range(0, self.dims, BLOCK):
            stop = min(start + BLOCK, self.dims)
            self._begin_block(start, stop)
            for k in range(start, stop):
                self._complete_units(k)
                self._complete_dimension(k, start)
            # Complete even if added to in place: later additions to a dimension's outputs are zero.
            parameters.append(self.sums[-1])
        rank = self.schedule.rank
        out = torch.cat(parameters, 1).view(self.size, self.dims, self.groups)
        return torch.cat(self.known[0], 1)[:, rank], out[:, rank].transpose(1, 2).contiguous()

    def _begin_block(self, start: int, stop: int) -> None:
        """Add up the contributions of all earlier blocks, with one product per layer."""
        self.places = [stage.units(start, stop) for stage in self.schedule.stages[1:]]
        self.places.append(slice(start * self.groups, stop * self.groups))
        self.sums = []
        for level, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            place = self.places[level]
            if self.known[level]:
                earlier = torch.cat(self.known[level], 1)
                self.known[level] = [earlier]
                read = weight[: earlier.shape[1], place]
                self.sums.append(torch.addmm(bias[place], earlier, read))
            else:
                self.sums.append(bias[place].repeat(self.size, 1))
        if self.skip is not None and start:
            self.sums[-1] = self.sums[-1] + self.known[0][0] @ self.skip[:start, self.places[-1]]

    def _complete_units(self, k: int) -> None:
        """Compute the hidden units that depend on k dimensions, and add their contributions."""
        for level, stage in enumerate(self.schedule.stages[1:]):
            own, first = stage.units(k, k + 1), self.places[level].start
            if own.start < own.stop:
                units = self.network.f(self.sums[level][:, own.start - first : own.stop - first])
                self.known[level + 1].append(units)
                self._pass_on(level + 1, units, self.weights[level + 1][own])

    def _complete_dimension(self, k: int, start: int) -> None:
        """Find x_k from its parameters, and add its contribution."""
        first = (k - start) * self.groups
        x_k = self.solve(self.y[k], self.sums[-1][:, first : first + self.groups])
        self.known[0].append(x_k)
        self._pass_on(0, x_k, self.weights[0][k : k + 1])
        if self.skip is not None:
            self._pass_on(-1, x_k, self.skip[k : k + 1])

    def _pass_on(self, level: int, features: Tensor, weight: Tensor) -> None:
        """Add the contribution of these features to a layer's outputs in this block."""
        self.sums[level] = self.add(self.sums[level], features, weight[:, self.places[level]])
