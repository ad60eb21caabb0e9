"""Inverting an autoregressive network's transform at about the cost of one dense pass.

The parameters of dimension k depend on earlier dimensions only, so the inverse finds one dimension
after the other. Running the whole network for each costs D passes. But a hidden unit whose inputs
are all known never changes again: as soon as it is complete it is passed on, once, to all units
that read it, so that every weight is used once.
"""

from collections.abc import Callable
from typing import cast

import torch
from pyro.nn import AutoRegressiveNN, MaskedLinear
from torch import Tensor


class _Stages:
    """Units sorted by the stage at which they are complete; stage k knows k dimensions."""

    def __init__(self, stage: Tensor, dims: int) -> None:
        self.stage = stage
        self.order = stage.argsort(stable=True)
        self.sizes = stage.bincount(minlength=dims + 1).tolist()

    def reading(self, mask: Tensor, dims: int) -> "_Stages":
        """The stages of units that read this layer through a mask ``(units, inputs)``."""
        return _Stages((mask * self.stage.to(mask.dtype)).amax(1).long(), dims)


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
    dims, order, groups = network.input_dim, network.permutation, network.output_multiplier
    rank = order.argsort()
    layers = [cast(MaskedLinear, layer) for layer in network.layers]
    stages = [_Stages(rank + 1, dims)]
    for layer in layers[:-1]:
        stages.append(stages[-1].reading(layer.mask, dims))
    # Outputs are stored parameter by parameter; sorted here by dimension, then parameter.
    outputs = (order[:, None] + dims * torch.arange(groups, device=order.device)).flatten()
    targets = [*(s.order for s in stages[1:]), outputs]
    weights, sums = [], []
    flat = y.reshape(-1, dims)
    for layer, source, target in zip(layers, stages, targets, strict=True):
        masked = (layer.weight * layer.mask).index_select(0, target)
        weights.append(masked.index_select(1, source.order).T)
        sums.append(layer.bias[target].expand(len(flat), -1).clone())
    skip = network.skip_layer
    if skip is not None:
        skip_weight = (skip.weight * skip.mask)[outputs][:, order].T

    # In place is cheaper, but would disturb what autograd has saved.
    grad = torch.is_grad_enabled() and (
        y.requires_grad or any(p.requires_grad for p in network.parameters())
    )
    add = torch.addmm if grad else Tensor.addmm_
    sizes = [s.sizes for s in stages[1:]] + [[groups] * dims]
    # Views per stage: cut once, they follow what is added in place.
    passed_on = [w.split(size) for w, size in zip(weights[1:], sizes, strict=False)]
    units = [s.split(size, 1) for s, size in zip(sums, sizes, strict=True)]
    columns, first = flat[:, order].split(1, 1), weights[0].split(1)
    found, parameters = [], []
    for k in range(dims):
        for level in range(len(layers) - 1):
            if sizes[level][k]:
                own = sums[level].split(sizes[level], 1) if grad else units[level]
                sums[level + 1] = add(sums[level + 1], network.f(own[k]), passed_on[level][k])
        own = sums[-1].split(groups, 1) if grad else units[-1]
        parameters.append(own[k])
        x_k = solve(columns[k], own[k])
        found.append(x_k)
        sums[0] = add(sums[0], x_k, first[k])
        if skip is not None:
            sums[-1] = add(sums[-1], x_k, skip_weight[k : k + 1])
    x = torch.cat(found, 1)[:, rank].view(y.shape)
    # Complete by now in place, too: later additions to a dimension's outputs are zero.
    out = torch.stack(parameters, -1)[..., rank]
    return x, out.view(*y.shape[:-1], groups, dims)
