"""The evidence lower bound with soft free bits, as an ordinary Pyro loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.infer.rate import RateELBO, scale_kl

_TOLERANCE = 1.05
_RAISE, _LOWER = 1.1, 0.9
# The paper requires gamma > 0. At a hundredth of its weight the KL term has little effect; a lower
# limit would only delay gamma's return to 1, which takes 49 steps from here.
MIN_GAMMA = 0.01


class SoftFreeBitsELBO(RateELBO):
    r"""The ELBO with a weight on the KL term that keeps the rate from falling below a target.

    Over a batch of images it maximizes

    .. math::

        \sum_i E_q[\log p(x_i | z_i)] - \gamma \mathrm{KL}_i, \qquad 0.01 \le \gamma \le 1.

    After each training step (``loss_and_grads``, ``differentiable_loss``; not ``loss``) gamma is
    multiplied by 1.1 if the batch mean of the KL was more than 5% above the target, by 0.9 if it
    was below the target, and left unchanged otherwise. Once the rate stays more than 5% above the
    target, the objective is thus the ELBO itself. Unlike in `FreeBitsELBO`, the KL always has a
    gradient. With ``target_nats=0`` loss and gradients are those of
    :class:`~pyro.infer.Trace_ELBO`. Scales, masks, and other latent sites are treated as in
    `FreeBitsELBO`.

    Args:
        target_nats: the target in nats per image. The paper does not state its own for CIFAR-10.
            The default, 100 nats, is 1.6 nats for each position of an 8x8 code. It costs at
            most 0.047 bits per dimension of a 32x32 color image, which is less than the differences
            between the paper's models (3.04 with a 7x4 window, 3.12 with 4x2). The 0.01 nats per
            dimension of the binary models (31 nats) would be less than a bit for a 4x4 patch.
        latent: name of the site whose KL is weighted, in model and guide.
        observed: name of the observed site, for ``last_distortion``.
        **kwargs: arguments of :class:`~pyro.infer.Trace_ELBO` (``num_particles``, ...).

    Attributes:
        gamma: weight of the KL in the next evaluation, a scalar tensor on the device of the most
            recent one; adapting it needs no host-device synchronization.
        last_gamma: weight of the KL in the most recent evaluation. None before the first.

    Raises:
        ValueError: ``target_nats`` is negative or not finite; when evaluated, as for `RateELBO`.

    Example:
        >>> svi = SVI(model, guide, optimizer, loss=SoftFreeBitsELBO(target_nats=100.0))

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and
        appendix.
    """

    def __init__(
        self, target_nats: float = 100.0, latent: str = "z", observed: str = "x", **kwargs: Any
    ) -> None:
        if not (math.isfinite(target_nats) and target_nats >= 0):
            raise ValueError(
                f"target_nats is {target_nats}, expected a finite number of nats per image >= 0 "
                "(0 turns soft free bits off)"
            )
        super().__init__(latent, observed, **kwargs)
        self.target_nats = float(target_nats)
        self.gamma = torch.ones(())
        self.last_gamma: Tensor | None = None

    def modify_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Multiply the KL by gamma."""
        self.gamma = self.gamma.to(rate.device)
        # A copy, because gamma itself changes in place.
        self.last_gamma = self.gamma.clone()
        scale_kl(prior, posterior, self.last_gamma)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """As in :class:`~pyro.infer.Trace_ELBO`; then adapt gamma."""
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self._adapt()
        return loss

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """As in :class:`~pyro.infer.Trace_ELBO`; then adapt gamma."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self._adapt()
        return loss

    def get_state(self) -> dict[str, float]:
        """Return ``gamma``, ready for JSON."""
        return {"gamma": self.gamma.item()}

    def set_state(self, state: dict[str, float]) -> None:
        """Restore a state returned by `get_state`."""
        self.gamma.fill_(state["gamma"])

    def _adapt(self) -> None:
        """Raise or lower gamma after a training step; a target of 0 leaves it unchanged."""
        if self.target_nats == 0:
            return
        assert self.last_rate is not None
        rate, one = self.last_rate, torch.ones_like(self.gamma)
        raised = torch.where(rate > _TOLERANCE * self.target_nats, _RAISE * one, one)
        self.gamma.mul_(torch.where(rate < self.target_nats, _LOWER * one, raised))
        self.gamma.clamp_(MIN_GAMMA, 1.0)
