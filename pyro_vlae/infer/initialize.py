"""Data-dependent initialization of a model and its guide.

References:
    Salimans and Kingma, "Weight Normalization", 2016, arXiv:1602.07868, section 3.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.reproducible import wrapped_modules


@torch.no_grad()
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
    store = pyro.get_param_store()
    known = set(store.keys())
    modules = [m for p in (model, guide) for top in wrapped_modules(p) for m in top.modules()]
    # Layers such as BatchNorm change theirs in place, others assign new tensors.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), initialization(True):
            guide_trace = poutine.trace(guide).get_trace(x)
            model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
            for trace in (guide_trace, model_trace):
                trace.compute_log_prob()
    finally:
        for module, name, buffer, value in buffers:
            setattr(module, name, buffer.copy_(value))
        for name in set(store.keys()) - known:
            del store[name]
