"""Data-dependent initialization of a model and its guide.

References:
    Salimans and Kingma, "Weight Normalization", 2016, arXiv:1602.07868, section 3.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.reproducible import forget_parameters, inner_modules


@torch.enable_grad()  # as in training, where weights are rounded differently
def initialize(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> None:
    """Initialize the weight-normalized layers of a model and its guide on a batch.

    On this batch, each of them is scaled and shifted so that all its output channels have mean 0
    and the same variance (nearly constant channels keep their scale): the guide is run, then the
    model on the guide's codes, and both are scored.
    Layers that were already initialized, loaded, or trained stay as they are, so a second call does
    nothing. Random generators, buffers (running statistics of other layers), and Pyro's
    parameter store are left unchanged: training continues exactly as if its first step had
    initialized the layers.

    Call it before the modules are copied to other devices or processes, or compiled. Otherwise it
    is optional: under plain `SVI` the first step initializes the layers.

    Args:
        model: Pyro model, called as ``model(x)``.
        guide: its guide, called as ``guide(x)``.
        x: a batch of images, ``(B, *event)``; at least a few dozen, for the statistics.

    Example:
        >>> model, guide = binary_vlae(), GaussianGuide(code_dim=64)
        >>> initialize(model, guide, train.batch(range(64)))
    """
    with _undone(model, guide, x), initialization(True):
        _log_probs(model, guide, x)


def check_held(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> None:
    """Raise a RuntimeError if the loss depends on tensors that SVI would leave untrained.

    That is, they require a gradient, and neither Pyro's parameter store nor a module holds them.
    Arguments as for `initialize`; nothing is changed.
    """
    with torch.compiler.set_stance("force_eager"):
        tensors = _untrained(model, guide, x)
    if tensors:
        raise RuntimeError(
            f"the loss depends on {len(tensors)} tensors that require a gradient but would not be "
            f"trained, the first one of shape {tuple(tensors[0].shape)}: Pyro's parameter store "
            "does not hold them. Make them parameters of the model or guide (a module that a "
            "function calls is not found: make the function the forward method of a module), "
            "register them with pyro.module or pyro.param, or call requires_grad_(False)"
        )


@torch.enable_grad()
def _untrained(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> list[Tensor]:
    with _undone(model, guide, x), initialization(False):
        stack: list[Any] = [p.grad_fn for p in _log_probs(model, guide, x)]
        held = {id(p) for _, p in pyro.get_param_store().named_parameters()}
        held |= {id(p) for module in inner_modules(model, guide) for p in module.parameters()}
    seen, found = set(), []
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(source for source, _ in node.next_functions)
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf is not x and id(leaf) not in held:
                found.append(leaf)
    return found


def _log_probs(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> list[Tensor]:
    """Log-probabilities of all sites of the guide, and of the model given the guide's codes."""
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    sites = [site for trace in (guide_trace, model_trace) for site in trace.nodes.values()]
    return [site["log_prob_sum"] for site in sites if "log_prob_sum" in site]


@contextmanager
def _undone(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> Iterator[None]:
    """Restore random generators, buffers, and Pyro's parameter store."""
    known = set(pyro.get_param_store().keys())
    # Layers such as BatchNorm change theirs in place, others assign new tensors.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in inner_modules(model, guide)
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer.copy_(value))
        forget_parameters(known)
