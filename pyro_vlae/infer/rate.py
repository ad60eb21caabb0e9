"""Base class for ELBOs that modify the KL term."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vlae.infer.distributed import sum_over_ranks
from pyro_vlae.infer.particles import is_point, sample_sites


class RateELBO(Trace_ELBO):
    """A `Trace_ELBO` that records rate and distortion, and whose subclasses modify the KL term.

    Subclasses implement `modify_kl`. In a process group of `torch.distributed`, an evaluation that
    records gradients takes the means over the batches of all ranks, which must take part.

    Args:
        latent: name of the code's site, in model and guide.
        observed: name of the observed site.
        **kwargs: arguments of :class:`~pyro.infer.Trace_ELBO` (``num_particles``, ...).

    Attributes:
        last_rate: KL term of the most recent evaluation before it was modified, in nats per image
            (mean over the batch and the particles): a detached scalar tensor. None before the
            first; NaN if all images are masked.
        last_distortion: likewise ``-log p(x | z)`` of the observed site.
        progress: used fraction of the training budget, in [0, 1]; set by `pyro_vlae.training.fit`.

    Raises:
        ValueError: when evaluated, model or guide lack the named sites, the guide's code is a
            function of an auxiliary site (as in `AutoNormal`), or the batch is empty.
    """

    def __init__(self, latent: str = "z", observed: str = "x", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent = latent
        self.observed = observed
        self.last_rate: Tensor | None = None
        self.last_distortion: Tensor | None = None
        self.progress = 0.0

    def modify_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Modify the KL term of one pass in place, in the code's sites in model and guide.

        ``rate`` is the KL term of this pass, as in ``last_rate``.
        """
        raise NotImplementedError

    def _get_traces(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Iterator[tuple[Trace, Trace]]:
        """Yield the passes of one evaluation with a modified KL; record rate and distortion."""
        rates, distortions = [], []
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            prior, posterior, likelihood = self._sites(model_trace, guide_trace)
            log_ratio = posterior["unscaled_log_prob"] - prior["unscaled_log_prob"]
            sums = [*_sums(log_ratio, prior), *_sums(-likelihood["unscaled_log_prob"], likelihood)]
            if torch.is_grad_enabled():  # in training, not when one rank evaluates the loss
                sum_over_ranks(sums)
            rate, distortion = sums[0] / sums[1], sums[2] / sums[3]
            rates.append(rate)
            distortions.append(distortion)
            self.modify_kl(prior, posterior, rate)
            yield model_trace, guide_trace
        self.last_rate = torch.stack(rates).mean()
        self.last_distortion = torch.stack(distortions).mean()

    def _sites(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """Return the prior, posterior, and likelihood sites, or raise a ValueError."""
        sites: list[Any] = []
        for argument, where, trace in (
            ("latent", "model", model_trace),
            ("latent", "guide", guide_trace),
            ("observed", "model", model_trace),
        ):
            name = getattr(self, argument)
            site = trace.nodes.get(name)
            if site is None or site["type"] != "sample":
                raise ValueError(
                    f"{type(self).__name__}({argument}={name!r}): the {where} has no such sample "
                    f"site (the model samples {_names(model_trace)}, the guide "
                    f"{_names(guide_trace)}); name the sites with latent= and observed=; without "
                    "a code, use Trace_ELBO"
                )
            sites.append(site)
        prior, posterior, likelihood = sites
        if not likelihood["is_observed"]:
            raise ValueError(
                f"{type(self).__name__}(observed={self.observed!r}): the model samples this site "
                "instead of observing it; pass obs= in the model or condition it"
            )
        among = sample_sites(guide_trace)
        auxiliary = [name for name, site in among if site["infer"].get("is_auxiliary")]
        if auxiliary and is_point(posterior):  # log q(z | x) is not that of the code's site
            raise ValueError(
                f"{type(self).__name__}(latent={self.latent!r}): the guide's code is a function of "
                f"its auxiliary site {auxiliary[0]!r}, so its rate is unknown; use Trace_ELBO, or "
                "a guide that samples the code itself, such as GaussianGuide"
            )
        if likelihood["unscaled_log_prob"].numel() == 0:
            raise ValueError(f"{type(self).__name__}: the batch holds no images")
        return prior, posterior, likelihood


def site_weight(site: Any) -> Tensor:
    """Scale times mask of each image of a site, in the shape of its log-probabilities."""
    ones = torch.ones_like(site["unscaled_log_prob"])
    return scale_and_mask(ones, site["scale"], site["mask"])


def scale_kl(prior: Any, posterior: Any, factor: Tensor) -> None:
    """Multiply the KL term by a factor, in place, wherever Trace_ELBO reads it from the traces.

    The factor is a scalar on the device, so no synchronization is needed. It acts like
    ``poutine.scale``, so score-function estimators (sites without reparameterization) are correct.
    """
    prior["log_prob"] = factor * prior["log_prob"]
    prior["log_prob_sum"] = factor * prior["log_prob_sum"]
    posterior["score_parts"] = posterior["score_parts"].scale_and_mask(factor)
    posterior["log_prob"] = posterior["score_parts"].log_prob
    posterior["log_prob_sum"] = posterior["log_prob"].sum()


def _sums(values: Tensor, site: Any) -> tuple[Tensor, Tensor]:
    """Sum over the images (and particles) that are not masked, and their weight, detached."""
    weight = site_weight(site).detach()
    # A masked image may contain anything, even NaN: select before multiplying.
    values = torch.where(weight == 0, 0.0, values.detach())
    return (weight * values).sum(), weight.sum()


def _names(trace: Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]
