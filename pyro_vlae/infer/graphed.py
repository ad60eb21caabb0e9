"""SVI whose step is one CUDA graph.

On a GPU the networks of a VLAE take a few milliseconds, and Python, Pyro and the launches of
thousands of small kernels take most of a step. A graph records the kernels once and replays them
in one launch: forward pass, backward pass, optimiser and running average, with fresh noise each
time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vlae.infer.optim import JointOptim

# Steps run kernel by kernel before a graph is captured: layers are initialised, the optimiser's
# state and the average come into being, libraries choose their algorithms.
WARM_UP = 3


class CaptureError(RuntimeError):
    """A step that cannot be captured in a CUDA graph."""


class GraphedSVI(SVI):
    """`pyro.infer.SVI` for CUDA, each step a replay of a captured graph.

    The first steps run as usual; then a graph is captured for the shapes at hand, and again for
    any others. What happens between kernels, such as prints, or a decision on a tensor's value,
    happens at capture only. Validation is off within steps.

    Args:
        model: its sites are reparameterised or observed, its control flow does not depend on
            values.
        guide: likewise.
        optim: a `JointOptim` with ``capturable=True``.
        loss: a `Trace_ELBO` or a `FreeBitsELBO`, which keep no state between steps.
        prepare: applied to the arguments of a step within the graph, for example
            ``lambda levels: torch.bernoulli(levels)`` to binarise grey images anew.

    Raises:
        ValueError: another optimiser or loss.
        CaptureError: on a step, arguments that are not CUDA tensors, or a model or guide that
            cannot be captured.

    Example::

        optimizer = JointOptim(torch.optim.Adamax, {"lr": 2e-3}, ema_decay=0.998, capturable=True)
        svi = GraphedSVI(model, guide, optimizer, FreeBitsELBO(7.84))
        for x in batches:
            svi.step(x)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: JointOptim,
        loss: Trace_ELBO,
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(optim, JointOptim) or not optim.capturable:
            raise ValueError(
                "GraphedSVI needs a JointOptim(..., capturable=True): other optimisers read "
                f"Python numbers, which a graph would freeze; got {type(optim).__name__}"
            )
        if getattr(type(loss), "loss_and_grads", None) is not Trace_ELBO.loss_and_grads:
            raise ValueError(
                f"GraphedSVI takes a Trace_ELBO or a FreeBitsELBO, got {type(loss).__name__}, "
                "which does more in a step than a graph would record: use pyro.infer.SVI"
            )
        super().__init__(model, guide, optim, loss)
        self.elbo = loss
        self.prepare = prepare
        self._warm_up = WARM_UP
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def step(self, *args: Tensor) -> float:
        """Take a gradient step on a batch; returns the loss, summed over images, in nats."""
        for arg in args:
            if not isinstance(arg, Tensor) or not arg.is_cuda:
                where = arg.device if isinstance(arg, Tensor) else type(arg).__name__
                raise CaptureError(
                    f"GraphedSVI takes CUDA tensors, got one on {where}: use pyro.infer.SVI there"
                )
        with pyro.validation_enabled(False):
            if self._warm_up:
                self._warm_up -= 1
                return self._on_side_stream(args)
            key = tuple((arg.shape, arg.dtype, arg.device) for arg in args)
            if key not in self._graphs:
                self._graphs[key] = self._capture(args)
            graph, inputs, loss = self._graphs[key]
            torch._foreach_copy_(inputs, list(args))
            self.optim.write_numbers()
            graph.replay()
            self.optim.count_step()
        return float(loss)

    def _on_side_stream(self, args: Sequence[Tensor]) -> float:
        stream = torch.cuda.Stream(args[0].device)
        stream.wait_stream(torch.cuda.current_stream(args[0].device))
        with torch.cuda.stream(stream):
            loss, params = self._gradients(args)
            self.optim(params)
        torch.cuda.current_stream(args[0].device).wait_stream(stream)
        return float(loss)

    def _capture(self, args: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [arg.clone() for arg in args]
        graph = torch.cuda.CUDAGraph()
        self.optim.write_numbers()
        try:
            with torch.cuda.graph(graph):
                loss, _ = self._gradients(inputs)
                self.optim.captured_part()
        except RuntimeError as error:
            raise CaptureError(
                "this step cannot be captured in a CUDA graph: something in model, guide or loss "
                "waits for the GPU (.item(), a decision on a tensor's value, a copy to the host) "
                f"or allocates on the host. Use pyro.infer.SVI for it. The cause: {error}"
            ) from error
        return graph, inputs, loss

    def _gradients(self, args: Sequence[Tensor]) -> tuple[Tensor, set[Tensor]]:
        """The loss as a detached scalar, and the parameters, whose gradients are set."""
        if self.prepare is not None:
            args = (self.prepare(*args),)
        with poutine.trace(param_only=True) as captured:
            loss, surrogate = detached_loss(self.elbo, self.model, self.guide, *args)
            surrogate.backward()
        params = {site["value"].unconstrained() for site in captured.trace.nodes.values()}
        return loss, params


def detached_loss(
    elbo: Trace_ELBO, model: Callable[..., Any], guide: Callable[..., Any], *args: Any
) -> tuple[Tensor, Tensor]:
    """What `Trace_ELBO.loss_and_grads` computes, without waiting for the device at each site.

    Returns:
        The loss, detached, and the surrogate loss, whose gradient is the estimate; scalars.

    Raises:
        CaptureError: a site of the guide is not reparameterised.
    """
    loss, surrogate = torch.zeros(()), torch.zeros(())
    first = True
    for model_trace, guide_trace in elbo._get_traces(model, guide, args, {}):
        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                term = -site["log_prob_sum"] / elbo.num_particles
                loss = term.detach() if first else loss + term.detach()
                surrogate = term if first else surrogate + term
                first = False
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                _, score_function_term, entropy_term = site["score_parts"]
                if not is_identically_zero(score_function_term):
                    raise CaptureError(
                        f"the guide's site {name!r} is not reparameterised: its gradient needs the "
                        "score function, which GraphedSVI does not estimate. Use pyro.infer.SVI"
                    )
                loss = loss + site["log_prob_sum"].detach() / elbo.num_particles
                if not is_identically_zero(entropy_term):
                    surrogate = surrogate + entropy_term.sum() / elbo.num_particles
    return loss, surrogate
