"""The evidence lower bound with free bits, as a stock Pyro loss."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.infer.rate import RateELBO, scale_kl, site_weight


class FreeBitsELBO(RateELBO):
    r"""The ELBO with a floor under the batch mean of the KL term.

    Over a batch of :math:`B` images it maximizes

    .. math::

        \sum_i E_q[\log p(x_i | z_i)] - B \max(\lambda, \frac{1}{B} \sum_i \mathrm{KL}_i),
        \qquad \mathrm{KL}_i = E_q[\log q(z_i | x_i) - \log p(z_i)],

    summed over images as :class:`~pyro.infer.Trace_ELBO` sums. Below the floor the KL term has no
    gradient, so early in training nothing pushes information out of the code. The KL is the Monte
    Carlo estimate of the same pass: its mean is over the images and, where they are vectorized,
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
        self, free_nats: Any = 0.0, latent: str = "z", observed: str = "x", **kwargs: Any
    ) -> None:
        self.schedule = free_nats if callable(free_nats) else None
        self.progress = 0.0
        if callable(free_nats):
            free_nats = free_nats(0.0)
        if not (math.isfinite(free_nats) and free_nats >= 0):
            raise ValueError(
                f"free_nats is {free_nats}, expected a finite number of nats per image >= 0 "
                "(0 turns free bits off; the paper's 0.01 nats per dimension are 7.84 for 28x28)"
            )
        super().__init__(latent, observed, **kwargs)
        self.free_nats = float(free_nats)

    def treat_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Switch a KL below the floor off, by a 0/1 tensor on the device."""
        if self.schedule is not None:
            self.free_nats = self.schedule(self.progress)
        if self.free_nats == 0:
            return
        above = (rate > self.free_nats).to(rate.dtype)
        # max(floor, nan) is nan, as torch.maximum has it: a broken KL must not hide under the
        # floor.
        above = torch.where(rate.isnan(), rate, above)
        scale_kl(prior, posterior, above)
        floor = (1 - above) * self.free_nats * site_weight(prior).sum()
        prior["log_prob_sum"] = prior["log_prob_sum"] - floor
