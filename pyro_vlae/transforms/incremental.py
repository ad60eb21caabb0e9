"""Inverting an autoregressive network's transform at about the cost of one dense pass.

The parameters of dimension k depend on earlier dimensions only, so the inverse finds one dimension
after the other. Running the whole network for each costs D passes. But a hidden unit whose inputs
are all known never changes again: as soon as it is complete it is passed on, once, to all units
that read it, so that every weight is used once: within a block of dimensions at once, to later
blocks in one matrix product for all of a block.
"""

from collections.abc import Callable
from typing import cast
from weakref import WeakKeyDictionary

import torch
from pyro.nn import AutoRegressiveNN, MaskedLinear
from torch import Tensor

from pyro_vlae.nn.threads import single_threaded

# Up to so many rows the matrix products are too small for several threads.
SMALL_BATCH = 256
# Dimensions found before what they add to later units is passed on, in one matrix product.
BLOCK = 8


class _Stages:
    """Units sorted by the stage at which they are complete; stage k knows k dimensions."""

    def __init__(self, stage: Tensor, dims: int) -> None:
        self.stage = stage
        # Pyro's hidden units are sorted already: their weights need not be copied.
        in_order = bool((stage.diff() >= 0).all())
        self.order = None if in_order else stage.argsort(stable=True)
        counts = stage.bincount(minlength=dims + 1)
        self.ends = [0, *counts.cumsum(0).tolist()]

    def reading(self, mask: Tensor, dims: int) -> "_Stages":
        """The stages of units that read this layer through a mask ``(units, inputs)``."""
        return _Stages((mask * self.stage.to(mask.dtype)).amax(1).long(), dims)

    def units(self, first: int, last: int) -> slice:
        """The places of units complete at stages ``first..last - 1``."""
        return slice(self.ends[first], self.ends[last])


class _Schedule:
    """The order in which a network's units are computed: all that follows from its masks."""

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
        """Whether the network still has the masks that this was made from.

        Edits through ``.data``, which bypass PyTorch's record of edits, are not noticed.
        """
        now = self._sources(network)
        same = (a is b and u == v for (a, u), (b, v) in zip(now, self._made_from, strict=False))
        return len(now) == len(self._made_from) and all(same)


# Made once for each network: on a GPU the host would wait for every number it reads of the masks.
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
        solve: gives x_k ``(N, 1)`` from y_k ``(N, 1)`` and the P parameters of dimension k,
            ``(N, P)``.
        y: ``(*batch, D)``.

    Returns:
        x ``(*batch, D)`` and the network's parameters there, ``(*batch, P, D)``. Gradients pass.
    """
    flat = y.reshape(-1, network.input_dim)
    with single_threaded(len(flat) <= SMALL_BATCH and not y.is_cuda):
        x, parameters = _invert(network, solve, flat)
    return x.view(y.shape), parameters.view(*y.shape[:-1], *parameters.shape[1:])


def _invert(
    network: AutoRegressiveNN, solve: Callable[[Tensor, Tensor], Tensor], y: Tensor
) -> tuple[Tensor, Tensor]:
    dims, groups = network.input_dim, network.output_multiplier
    layers = [cast(MaskedLinear, layer) for layer in network.layers]
    schedule = _schedule(network)
    order, rank, stages = schedule.order, schedule.rank, schedule.stages
    targets = [*(s.order for s in stages[1:]), schedule.outputs]
    weights, biases = [], []
    for layer, source, target in zip(layers, stages, targets, strict=True):
        weight: Tensor = layer.weight * layer.mask
        bias: Tensor = layer.bias
        if target is not None:
            weight, bias = weight.index_select(0, target), bias[target]
        weights.append((weight if source.order is None else weight[:, source.order]).T)
        biases.append(bias)
    skip = network.skip_layer
    if skip is not None:
        skip_weight = (skip.weight * skip.mask)[schedule.outputs][:, order].T

    # In place is cheaper, but would disturb what autograd has saved.
    grad = torch.is_grad_enabled() and (
        y.requires_grad or any(p.requires_grad for p in network.parameters())
    )
    add = torch.addmm if grad else Tensor.addmm_
    columns, hidden = y[:, order].split(1, 1), range(len(layers) - 1)
    # What is known of every layer's inputs, stage after stage; x itself is the first.
    known: list[list[Tensor]] = [[] for _ in layers]
    parameters = []
    for start in range(0, dims, BLOCK):
        stop = min(start + BLOCK, dims)
        # What all blocks before add to the units that become complete in this one.
        places = [s.units(start, stop) for s in stages[1:]]
        places.append(slice(start * groups, stop * groups))
        sums = []
        for level, (weight, bias, place) in enumerate(zip(weights, biases, places, strict=True)):
            if known[level]:
                known[level] = [torch.cat(known[level], 1)]
                earlier = known[level][0]
                sums.append(torch.addmm(bias[place], earlier, weight[: earlier.shape[1], place]))
            else:
                sums.append(bias[place].repeat(len(y), 1))
        if skip is not None and start:
            columns_here = slice(start * groups, stop * groups)
            sums[-1] = sums[-1] + known[0][0] @ skip_weight[:start, columns_here]
        for k in range(start, stop):
            for level in hidden:
                own = stages[level + 1].units(k, k + 1)
                if own.start < own.stop:
                    offset = places[level].start
                    units = network.f(sums[level][:, own.start - offset : own.stop - offset])
                    known[level + 1].append(units)
                    weight = weights[level + 1][own, places[level + 1]]
                    sums[level + 1] = add(sums[level + 1], units, weight)
            here = (k - start) * groups
            x_k = solve(columns[k], sums[-1][:, here : here + groups])
            known[0].append(x_k)
            sums[0] = add(sums[0], x_k, weights[0][k : k + 1, places[0]])
            if skip is not None:
                sums[-1] = add(sums[-1], x_k, skip_weight[k : k + 1, places[-1]])
        # Complete by now in place, too: later additions to a dimension's outputs are zero.
        parameters.append(sums[-1])
    x = torch.cat(known[0], 1)[:, rank]
    out = torch.cat(parameters, 1).view(len(y), dims, groups)
    return x, out[:, rank].transpose(1, 2).contiguous()
