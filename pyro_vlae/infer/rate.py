"""What bounds with a treated KL term share: the sites of a code, its rate and its distortion."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor


class RateELBO(Trace_ELBO):
    """A `Trace_ELBO` that measures rate and distortion, and lets a subclass treat the KL term.

    Subclasses give `treat_kl`.

    Args:
        latent: name of the code's site, in model and guide.
        observed: name of the observed site.
        **kwargs: arguments of :class:`~pyro.infer.Trace_ELBO`.

    Attributes:
        last_rate: KL in nats per image (batch mean, averaged over particles) of the latest
            evaluation, untreated: a detached scalar on the device. ``None`` before the first.
        last_distortion: Likewise ``-log p(x | z)`` of the observed site, in nats per image.
    """

    def __init__(self, latent: str = "z", observed: str = "x", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent = latent
        self.observed = observed
        self.last_rate: Tensor | None = None
        self.last_distortion: Tensor | None = None

    def treat_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Change the KL term of one pass, in place, in its two sites.

        Args:
            prior: the model's site of the code.
            posterior: the guide's.
            rate: the KL of this pass, as in ``last_rate``.
        """
        raise NotImplementedError

    def _get_traces(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Iterator[tuple[Trace, Trace]]:
        """Yield the passes of one evaluation, the KL treated, and keep their mean figures."""
        rates, distortions = [], []
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            prior, posterior, likelihood = self._sites(model_trace, guide_trace)
            rate = _mean(posterior["unscaled_log_prob"] - prior["unscaled_log_prob"], prior)
            rates.append(rate)
            distortions.append(_mean(-likelihood["unscaled_log_prob"].detach(), likelihood))
            self.treat_kl(prior, posterior, rate)
            yield model_trace, guide_trace
        self.last_rate = torch.stack(rates).mean()
        self.last_distortion = torch.stack(distortions).mean()

    def _sites(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any, Any]:
        """Return the prior, posterior and likelihood sites, or say which is missing."""
        prior: Any = model_trace.nodes.get(self.latent)
        posterior: Any = guide_trace.nodes.get(self.latent)
        likelihood: Any = model_trace.nodes.get(self.observed)
        for site, where, argument in (
            (prior, "the model", f"latent={self.latent!r}"),
            (posterior, "the guide", f"latent={self.latent!r}"),
            (likelihood, "the model", f"observed={self.observed!r}"),
        ):
            if site is None or site["type"] != "sample":
                raise ValueError(
                    f"{type(self).__name__}({argument}): {where} has no such sample site "
                    f"(the model samples {_names(model_trace)}, the guide {_names(guide_trace)}); "
                    "name the sites with latent= and observed=; without a code, use Trace_ELBO"
                )
        if not likelihood["is_observed"]:
            raise ValueError(
                f"{type(self).__name__}(observed={self.observed!r}): the model samples this site "
                "instead of observing it; pass obs= in the model or condition it"
            )
        return prior, posterior, likelihood


def _names(trace: Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]


def site_weight(site: Any) -> Tensor:
    """Scale times mask of each image of a site, in the shape of its log-probabilities."""
    ones = torch.ones_like(site["unscaled_log_prob"])
    return scale_and_mask(ones, site["scale"], site["mask"])


def _mean(values: Tensor, site: Any) -> Tensor:
    """Mean over the images (and particles) that count, detached."""
    weight = site_weight(site)
    # A masked image may hold anything, NaN included: select before multiplying.
    values = torch.where(weight == 0, 0.0, values.detach())
    return (weight * values).sum() / weight.sum()


def scale_kl(prior: Any, posterior: Any, factor: Tensor) -> None:
    """Multiply the KL term by a factor, in place, in everything Trace_ELBO reads from the traces.

    The factor is a scalar on the device: no synchronization. It acts as ``poutine.scale`` would
    have, so score-function estimators (sites that are not reparameterized) are right too.
    """
    prior["log_prob"] = factor * prior["log_prob"]
    prior["log_prob_sum"] = factor * prior["log_prob_sum"]
    posterior["score_parts"] = posterior["score_parts"].scale_and_mask(factor)
    posterior["log_prob"] = posterior["score_parts"].log_prob
    posterior["log_prob_sum"] = posterior["log_prob"].sum()
