"""The evidence lower bound with free bits, as a stock Pyro loss."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor


class FreeBitsELBO(Trace_ELBO):
    r"""The ELBO with a floor under the batch mean of the KL term.

    Over a batch of :math:`B` images it maximises

    .. math::

        \sum_i E_q[\log p(x_i | z_i)] - B \max(\lambda, \frac{1}{B} \sum_i \mathrm{KL}_i),
        \qquad \mathrm{KL}_i = E_q[\log q(z_i | x_i) - \log p(z_i)],

    summed over images as :class:`~pyro.infer.Trace_ELBO` sums. Below the floor the KL term has no
    gradient, so early in training nothing pushes information out of the code. The KL is the Monte
    Carlo estimate of the same pass: its mean is over the images and, where they are vectorised,
    over the particles; particles drawn one after the other meet the floor one by one. With
    ``free_nats=0`` loss and gradients are exactly those of ``Trace_ELBO``, also where the estimate
    of the KL is negative.

    ``poutine.scale`` and subsampling plates: the floor is compared with the *unscaled* KL in nats
    per image of the mini-batch, and counts with the scale of the model's latent site. A whole
    program scaled by ``s`` so gives ``s`` times the objective above, and a plate of ``N`` images of
    which ``B`` are drawn gives ``N / B`` times that of the mini-batch. Masked images do not count.

    Other latent sites than ``latent`` enter the bound as usual and have no floor.

    Args:
        free_nats: The floor in nats per image. The paper uses 0.01 nats per data dimension, 7.84
            for a 28x28 image.
        latent: Name of the site whose KL has the floor, in model and guide.
        observed: Name of the observed site that ``last_distortion`` reports.
        **kwargs: Arguments of :class:`~pyro.infer.Trace_ELBO` (``num_particles``, ...).

    Attributes:
        last_rate: KL in nats per image (batch mean, averaged over particles) of the latest
            evaluation, be it of ``loss``, ``differentiable_loss`` or ``loss_and_grads``: a detached
            scalar on the device, before the floor. ``None`` before the first.
        last_distortion: Likewise ``-log p(x | z)`` of the observed site, in nats per image.

    Raises:
        ValueError: If ``free_nats`` is negative or not finite; when evaluated, if model or guide
            lack the named sites.

    Example:
        >>> svi = SVI(model, guide, optimizer, loss=FreeBitsELBO(free_nats=7.84))

    References:
        Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
        arXiv 1606.04934 (free bits); Chen et al., *Variational Lossy Autoencoder*, 2017,
        arXiv 1611.02731 (0.01 nats per data dimension).
    """

    def __init__(
        self, free_nats: float = 0.0, latent: str = "z", observed: str = "x", **kwargs: Any
    ) -> None:
        if not (math.isfinite(free_nats) and free_nats >= 0):
            raise ValueError(
                f"free_nats is {free_nats}, expected a finite number of nats per image >= 0 "
                "(0 turns free bits off; the paper's 0.01 nats per dimension are 7.84 for 28x28)"
            )
        super().__init__(**kwargs)
        self.free_nats = float(free_nats)
        self.latent = latent
        self.observed = observed
        self.last_rate: Tensor | None = None
        self.last_distortion: Tensor | None = None

    def _get_traces(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Iterator[tuple[Trace, Trace]]:
        """Yield the passes of one evaluation, floor applied, and keep their mean figures."""
        rates, distortions = [], []
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            prior, posterior, likelihood = self._sites(model_trace, guide_trace)
            rate = _mean(posterior["unscaled_log_prob"] - prior["unscaled_log_prob"], prior)
            rates.append(rate)
            distortions.append(_mean(-likelihood["unscaled_log_prob"].detach(), likelihood))
            if self.free_nats > 0:
                _apply_floor(prior, posterior, rate, self.free_nats)
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
                    f"FreeBitsELBO({argument}): {where} has no such sample site "
                    f"(the model samples {_names(model_trace)}, the guide {_names(guide_trace)}); "
                    "name the sites with latent= and observed=; without a code, use Trace_ELBO"
                )
        if not likelihood["is_observed"]:
            raise ValueError(
                f"FreeBitsELBO(observed={self.observed!r}): the model samples this site instead of "
                "observing it; pass obs= in the model or condition it"
            )
        return prior, posterior, likelihood


def _names(trace: Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]


def _weight(site: Any) -> Tensor:
    """Scale times mask of each image of a site, in the shape of its log-probabilities."""
    ones = torch.ones_like(site["unscaled_log_prob"])
    return scale_and_mask(ones, site["scale"], site["mask"])


def _mean(values: Tensor, site: Any) -> Tensor:
    """Mean over the images (and particles) that count, detached."""
    weight = _weight(site)
    # A masked image may hold anything, NaN included: select before multiplying.
    values = torch.where(weight == 0, 0.0, values.detach())
    return (weight * values).sum() / weight.sum()


def _apply_floor(prior: Any, posterior: Any, rate: Tensor, free_nats: float) -> None:
    """Switch a KL below the floor off, in place, in everything Trace_ELBO reads from the traces.

    The switch is a 0/1 tensor on the device: no synchronisation. It acts as ``poutine.scale`` would
    have, so score-function estimators (sites that are not reparameterised) are right too.
    """
    above = (rate > free_nats).to(rate.dtype)
    # max(floor, nan) is nan, as torch.maximum has it: a broken KL must not hide under the floor.
    above = torch.where(rate.isnan(), rate, above)
    floor = (1 - above) * free_nats * _weight(prior).sum()
    prior["log_prob"] = above * prior["log_prob"]
    prior["log_prob_sum"] = above * prior["log_prob_sum"] - floor
    posterior["score_parts"] = posterior["score_parts"].scale_and_mask(above)
    posterior["log_prob"] = posterior["score_parts"].log_prob
    posterior["log_prob_sum"] = posterior["log_prob"].sum()
