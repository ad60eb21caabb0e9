"""Inverting an autoregressive network's transform at about the cost of one dense pass.

The parameters of dimension k depend on earlier dimensions only, so the inverse finds one dimension
after the other. Running the whole network for each costs D passes. But a hidden unit whose inputs
are all known never changes again: ordered by when that happens, each layer grows block by block,
and every weight is used once.
"""

from collections.abc import Callable

import torch
from pyro.nn import AutoRegressiveNN
from torch import Tensor
from torch.nn import functional as F


class _Growing:
    """Activations of one layer, in the order in which they become known."""

    def __init__(self, like: Tensor, size: int, out_of_place: bool) -> None:
        # Writing in place is cheaper, but would disturb what autograd has saved.
        self.out_of_place = out_of_place
        self.values = like.new_empty(*like.shape[:-1], 0 if out_of_place else size)
        self.length = 0

    def append(self, block: Tensor) -> None:
        if self.out_of_place:
            self.values = torch.cat([self.values, block], -1)
        else:
            self.values[..., self.length : self.length + block.shape[-1]] = block
        self.length += block.shape[-1]

    def known(self, count: int) -> Tensor:
        """The first `count` activations."""
        return self.values[..., :count]


class _Stages:
    """At which stage the units of a layer are known: stage k has the dimensions of rank < k."""

    def __init__(self, stage: Tensor, dims: int) -> None:
        self.stage = stage
        self.order = stage.argsort(stable=True)
        self.known = stage.bincount(minlength=dims + 1).cumsum(0).tolist()

    def after(self, mask: Tensor, dims: int) -> "_Stages":
        """The stages of a layer that reads this one through a mask ``(units, inputs)``."""
        read = torch.where(mask > 0, self.stage, torch.zeros_like(self.stage))
        return _Stages(read.amax(1), dims)


def invert_autoregressive(
    network: AutoRegressiveNN, solve: Callable[[Tensor, Tensor], Tensor], y: Tensor
) -> tuple[Tensor, Tensor]:
    """Find x with ``y_k = g(x_k; parameters_k(earlier x))`` for every dimension k.

    Args:
        network: Pyro's `AutoRegressiveNN`, its ``param_dims`` all 1, its nonlinearity elementwise.
        solve: gives x_k ``(*batch)`` from y_k ``(*batch)`` and the P parameters of dimension k,
            ``(*batch, P)``.
        y: ``(*batch, D)``.

    Returns:
        x ``(*batch, D)`` and the network's parameters there, ``(*batch, P, D)``. Gradients pass.
    """
    dims, order = network.input_dim, network.permutation
    rank = order.argsort()
    inputs = _Stages(rank + 1, dims)
    stages, hidden = inputs, []
    for layer in network.layers[:-1]:
        following = stages.after(layer.mask, dims)
        weight = (layer.weight * layer.mask)[following.order][:, stages.order]
        hidden.append((weight, layer.bias[following.order], stages.known, following.known))
        stages = following
    last, skip = network.layers[-1], network.skip_layer
    # Outputs are stored parameter by parameter; here (D by rank, P, inputs).
    outputs = order[:, None] + dims * torch.arange(network.output_multiplier, device=order.device)
    last_weight = (last.weight * last.mask)[:, stages.order][outputs]
    last_bias = last.bias[outputs]
    if skip is not None:
        skip_weight = (skip.weight * skip.mask)[:, inputs.order][outputs]

    tensors = [y, *network.parameters()]
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    grown = [_Growing(y, dims, grad)]
    grown += [_Growing(y, len(bias), grad) for _, bias, _, _ in hidden]
    by_rank = y[..., order].unbind(-1)
    parameters = []
    for k in range(dims):
        for (weight, bias, known_inputs, known_units), below, level in zip(
            hidden, grown, grown[1:], strict=False
        ):
            new, read = slice(level.length, known_units[k]), known_inputs[k]
            if new.stop > new.start:
                level.append(network.f(F.linear(below.known(read), weight[new, :read], bias[new])))
        read = stages.known[k]
        found = F.linear(grown[-1].known(read), last_weight[k, :, :read], last_bias[k])
        if skip is not None:
            read = inputs.known[k]
            found = found + F.linear(grown[0].known(read), skip_weight[k, :, :read])
        parameters.append(found)
        grown[0].append(solve(by_rank[k], found).unsqueeze(-1))
    return grown[0].values[..., rank], torch.stack(parameters, -1)[..., rank]
