"""The evidence lower bound with free bits, as an ordinary Pyro loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.infer.rate import RateELBO, scale_kl, site_weight


class FreeBitsELBO(RateELBO):
    r"""The ELBO with a lower limit (floor) on the batch mean of the KL term.

    Over a batch of :math:`B` images it maximizes, summed over images as in
    :class:`~pyro.infer.Trace_ELBO`,

    .. math::

        \sum_i E_q[\log p(x_i | z_i)] - B \max(\lambda, \frac{1}{B} \sum_i \mathrm{KL}_i),
        \qquad \mathrm{KL}_i = E_q[\log q(z_i | x_i) - \log p(z_i)].

    Below the floor the KL term has no gradient, so early in training nothing drives information out
    of the code. The KL is the Monte Carlo estimate of the same pass, averaged over images and
    vectorized particles; each sequential particle is compared with the floor on its own. With
    ``free_nats=0`` loss and gradients are exactly those of ``Trace_ELBO``, even where the estimate
    of the KL is negative.

    With ``poutine.scale`` and subsampling plates, the floor is compared with the *unscaled* KL in
    nats per image of the mini-batch and then scaled like the model's latent site: the objective
    above is scaled as a whole. Masked images do not count. Latent sites other than ``latent`` enter
    the bound as usual.

    Args:
        free_nats: the floor in nats per image, a number or a function of the training progress in
            [0, 1]. The paper uses 0.01 nats per data dimension, 7.84 for a 28x28 image.
        latent: name of the site whose KL has the floor, in model and guide.
        observed: name of the observed site, for ``last_distortion``.
        **kwargs: arguments of :class:`~pyro.infer.Trace_ELBO` (``num_particles``, ...).

    Raises:
        ValueError: ``free_nats`` is negative or not finite; when evaluated, as for `RateELBO`.

    Example:
        >>> svi = SVI(model, guide, optimizer, loss=FreeBitsELBO(free_nats=7.84))

    References:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
        arXiv:1606.04934.
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731.
    """

    def __init__(
        self,
        free_nats: float | Callable[[float], float] = 0.0,
        latent: str = "z",
        observed: str = "x",
        **kwargs: Any,
    ) -> None:
        super().__init__(latent, observed, **kwargs)
        self.free_nats = free_nats
        if not callable(free_nats):
            self._floor()

    def modify_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Replace a KL below the floor by the floor, with a 0/1 tensor on the device."""
        floor = self._floor()
        if floor == 0:
            return
        above = (rate > floor).to(rate.dtype)
        weight = site_weight(prior).sum()
        # max(floor, nan) is nan, as in torch.maximum: the floor must not hide a broken KL. If all
        # images are masked, it is not broken but missing.
        above = torch.where(rate.isnan() & (weight != 0), rate, above)
        scale_kl(prior, posterior, above)
        constant = (1 - above) * floor * weight
        prior["log_prob_sum"] = prior["log_prob_sum"] - constant

    def _floor(self) -> float:
        """The floor at the current progress, in nats per image."""
        floor = self.free_nats(self.progress) if callable(self.free_nats) else self.free_nats
        if not (math.isfinite(floor) and floor >= 0):
            raise ValueError(
                f"free_nats is {floor}, expected a finite number of nats per image >= 0 "
                "(0 turns free bits off; the paper's 0.01 nats per dimension are 7.84 for 28x28)"
            )
        return float(floor)
