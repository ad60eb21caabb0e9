"""SVI whose step is one CUDA graph.

On a GPU the networks of a VLAE take a few milliseconds, and Python, Pyro and the launches of
thousands of small kernels take most of a step. A graph records the kernels once and replays them
in one launch: forward pass, backward pass, optimizer and running average, with fresh noise each
time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vlae.infer.capturable import CapturableOptim
from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.soft_free_bits import SoftFreeBitsELBO
from pyro_vlae.transforms import clear_cache

# Steps run kernel by kernel before a graph is captured: layers are initialized, the optimizer's
# state and the average come into being, libraries choose their algorithms.
WARM_UP = 3


class CaptureError(RuntimeError):
    """A step that cannot be captured in a CUDA graph."""


@dataclass
class _Captured:
    """A captured step: its graph, where it reads its arguments, and what it leaves behind."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    loss: Tensor
    figures: dict[str, Tensor]  # attributes of the loss that hold tensors
    gradient_norm: Tensor | None


class GraphedSVI(SVI):
    """`pyro.infer.SVI` for CUDA, each step a replay of a captured graph. Experimental.

    For arguments of each shape the first steps run as usual; then a graph is captured. What happens
    between kernels, such as prints, or a decision on a tensor's value, happens at capture only.
    Validation is off within steps.

    Args:
        model: its sites are reparameterized or observed, its control flow does not depend on
            values.
        guide: likewise.
        optim: a `CapturableOptim`.
        loss: a `Trace_ELBO`, `FreeBitsELBO` or `SoftFreeBitsELBO`.
        prepare: applied to the arguments of a step within the graph, for example
            ``torch.bernoulli`` to binarize gray images anew; returns the argument, or a tuple of
            arguments, for model and guide.

    Raises:
        ValueError: another optimizer or loss.
        CaptureError: on a step, arguments that are not CUDA tensors, or a model or guide that
            cannot be captured.

    Example::

        optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 2e-3}, ema_decay=0.998)
        svi = GraphedSVI(model, guide, optimizer, FreeBitsELBO(7.84))
        for x in batches:
            svi.step(x)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: CapturableOptim,
        loss: Trace_ELBO,
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(optim, CapturableOptim):
            raise ValueError(
                "GraphedSVI needs a CapturableOptim: other optimizers read Python numbers, which a "
                f"graph would freeze; got {type(optim).__name__}"
            )
        if type(loss) not in (Trace_ELBO, FreeBitsELBO, SoftFreeBitsELBO):
            raise ValueError(
                "GraphedSVI computes Trace_ELBO, FreeBitsELBO and SoftFreeBitsELBO, got "
                f"{type(loss).__name__}: use pyro.infer.SVI for other losses"
            )
        super().__init__(model, guide, optim, loss)
        self.elbo = loss
        self.prepare = prepare
        self._stream: torch.cuda.Stream | None = None
        self._warm: dict[Any, int] = {}
        self._captured: dict[Any, _Captured] = {}

    def step(self, *args: Tensor) -> float:
        """Take a gradient step on a batch; returns the loss, summed over images, in nats."""
        for arg in args:
            if not isinstance(arg, Tensor) or not arg.is_cuda:
                where = arg.device if isinstance(arg, Tensor) else type(arg).__name__
                raise CaptureError(
                    f"GraphedSVI takes CUDA tensors, got one on {where}: use pyro.infer.SVI there"
                )
        shapes = tuple((arg.shape, arg.dtype, arg.device) for arg in args)
        with pyro.validation_enabled(False):
            if self._warm.get(shapes, 0) < WARM_UP:
                loss = self._eager_step(args)
                self._warm[shapes] = self._warm.get(shapes, 0) + 1
                return loss
            key = (shapes, self.optim.generation)
            if key not in self._captured:
                # Graphs of an earlier generation write to tensors that are no longer in use.
                self._captured = {k: v for k, v in self._captured.items() if k[1] == key[1]}
                self._captured[key] = self._capture(args)
            step = self._captured[key]
            torch._foreach_copy_(step.inputs, list(args))
            self.optim.write_numbers()
            step.graph.replay()
            self.optim.count_step()
        for name, value in step.figures.items():
            setattr(self.elbo, name, value)
        self.optim.gradient_norm = step.gradient_norm
        return float(step.loss)

    def _eager_step(self, args: Sequence[Tensor]) -> float:
        device = args[0].device
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            loss, params = self._gradients(args)
            self.optim(params)
        torch.cuda.current_stream(device).wait_stream(self._stream)
        return float(loss)

    def _capture(self, args: Sequence[Tensor]) -> _Captured:
        inputs = [arg.clone() for arg in args]
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(args[0].device)
        generation = self.optim.generation
        self.optim.write_numbers()
        self.optim.drop_gradients()  # one that is there would be added to, not set
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                loss, params = self._gradients(inputs)
                self.optim.captured_part()
        except RuntimeError as error:
            torch.cuda.set_stream(before)
            self.optim.drop_gradients()
            # An invalid capture fails once more when it is ended; the first error tells why.
            cause = error.__context__ or error
            raise CaptureError(
                "this step cannot be captured in a CUDA graph: something in model, guide or loss "
                "waits for the GPU (.item(), a decision on a tensor's value, a copy to or from the "
                "host). Start anew with pyro.infer.SVI: after a failed capture this process's "
                f"random generator may not be usable. The cause: {cause}"
            ) from error
        if params != self.optim.current or generation != self.optim.generation:
            raise CaptureError(
                "model and guide registered other parameters than in the steps before: "
                "GraphedSVI takes models whose parameters are always the same"
            )
        figures = {
            name: value
            for name in ("last_rate", "last_distortion", "last_gamma")
            if (value := getattr(self.elbo, name, None)) is not None
        }
        return _Captured(graph, inputs, loss, figures, self.optim.gradient_norm)

    def _gradients(self, args: Sequence[Tensor]) -> tuple[Tensor, set[Tensor]]:
        """The loss as a detached scalar, and the parameters, whose gradients are set."""
        # Autograd's nodes of the step before, kept alive by a memory, belong to another stream.
        for program in (self.model, self.guide):
            if isinstance(program, nn.Module):
                clear_cache(program.modules())
        if self.prepare is not None:
            prepared = self.prepare(*args)
            args = prepared if isinstance(prepared, tuple) else (prepared,)
        with poutine.trace(param_only=True) as captured:
            loss, surrogate = detached_loss(self.elbo, self.model, self.guide, *args)
            surrogate.backward()
        if isinstance(self.elbo, SoftFreeBitsELBO):
            self.elbo.adapt()
        sites: Any = captured.trace.nodes.values()
        params = {site["value"].unconstrained() for site in sites}
        return loss, params


def detached_loss(
    elbo: Trace_ELBO, model: Callable[..., Any], guide: Callable[..., Any], *args: Any
) -> tuple[Tensor, Tensor]:
    """What `Trace_ELBO.loss_and_grads` computes, without waiting for the device at each site.

    Returns:
        The loss, detached, and the surrogate loss, whose gradient is the estimate; scalars.

    Raises:
        CaptureError: a site of the guide is not reparameterized.
    """
    losses, surrogates = [], []
    for model_trace, guide_trace in elbo._get_traces(model, guide, args, {}):
        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                losses.append(-site["log_prob_sum"])
                surrogates.append(losses[-1])
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                _, score_function_term, entropy_term = site["score_parts"]
                if not is_identically_zero(score_function_term):
                    raise CaptureError(
                        f"the guide's site {name!r} is not reparameterized: its gradient needs the "
                        "score function, which GraphedSVI does not estimate. Use pyro.infer.SVI"
                    )
                losses.append(site["log_prob_sum"])
                if not is_identically_zero(entropy_term):
                    surrogates.append(entropy_term.sum())
    return sum(losses).detach() / elbo.num_particles, sum(surrogates) / elbo.num_particles
