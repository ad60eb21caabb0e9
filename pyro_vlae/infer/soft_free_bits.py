"""The evidence lower bound with soft free bits, as a stock Pyro loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.infer.rate import RateELBO, scale_kl

_TOLERANCE = 1.05
_RAISE, _LOWER = 1.1, 0.9
# The paper says only gamma > 0. With a hundredth of its weight the KL hardly pulls; much less would
# change nothing but the number of steps (48 from here) until it is back at 1.
MIN_GAMMA = 0.01


class SoftFreeBitsELBO(RateELBO):
    r"""The ELBO with a weight on the KL term that keeps the rate from falling below a target.

    Over a batch of images it maximizes

    .. math::

        \sum_i E_q[\log p(x_i | z_i)] - \gamma \mathrm{KL}_i, \qquad 0.01 \le \gamma \le 1.

    After each training step (``loss_and_grads``, ``differentiable_loss``; not ``loss``) gamma is
    multiplied by 1.1 if the batch mean of the KL was more than 5 % above the target, by 0.9 if it
    was below the target, and stays otherwise. A rate that stays above the target so is trained by
    the ELBO itself. In contrast to `FreeBitsELBO` the KL always has a gradient. With
    ``target_nats=0`` loss and gradients are those of :class:`~pyro.infer.Trace_ELBO` as long as the
    estimate of the KL is not negative.

    ``poutine.scale`` and masks act as in `FreeBitsELBO`: the target is compared with the unscaled
    KL in nats per image of the images that count. Other latent sites than ``latent`` enter the
    bound as usual.

    Args:
        target_nats: The target, lambda, in nats per image. The paper has it for CIFAR-10 and does
            not state it. The default, 100 nats, is 0.047 bits per dimension of a 32x32 color
            image: of the size of the differences between the paper's models (3.04 with a 7x4
            window, 3.12 with 4x2), so little is lost even if the decoder found no use for it. And
            it is 1.6 nats for each position of an 8x8 code, where the 0.01 nats per dimension of
            the binary models (31 nats) would be less than a bit for what a 4x4 patch holds.
        latent: Name of the site whose KL is weighted, in model and guide.
        observed: Name of the observed site that ``last_distortion`` reports.
        **kwargs: Arguments of :class:`~pyro.infer.Trace_ELBO` (``num_particles``, ...).

    Attributes:
        gamma: The weight that the next evaluation uses: a scalar tensor, on the device of the
            latest evaluation; adapting it does not wait for the device.
        last_gamma: The weight that the latest evaluation used. ``None`` before the first.
        last_rate: As in `FreeBitsELBO`: KL in nats per image, unweighted.
        last_distortion: Likewise ``-log p(x | z)``.

    Raises:
        ValueError: If ``target_nats`` is negative or not finite; when evaluated, if model or guide
            lack the named sites.

    Example:
        >>> svi = SVI(model, guide, optimizer, loss=SoftFreeBitsELBO(target_nats=100.0))

    References:
        Chen et al., *Variational Lossy Autoencoder*, 2017, arXiv 1611.02731, section 4.3 and
        appendix (soft free bits).
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

    def treat_kl(self, prior: Any, posterior: Any, rate: Tensor) -> None:
        """Weight the KL."""
        self.gamma = self.gamma.to(rate.device)
        # A copy: gamma itself changes in place, so that a captured step finds it where it was.
        self.last_gamma = self.gamma.clone()
        scale_kl(prior, posterior, self.last_gamma)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """As in :class:`~pyro.infer.Trace_ELBO`; then adapt gamma."""
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.adapt()
        return loss

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """As in :class:`~pyro.infer.Trace_ELBO`; then adapt gamma."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self.adapt()
        return loss

    def get_state(self) -> dict[str, float]:
        """What a resumed run needs beside the arguments, ready for JSON: ``gamma``, exactly."""
        return {"gamma": self.gamma.item()}

    def set_state(self, state: dict[str, float]) -> None:
        """Go on from a state of `get_state`."""
        self.gamma.fill_(state["gamma"])

    def adapt(self) -> None:
        """Raise or lower gamma after an evaluation; a target of 0 leaves it alone."""
        if self.target_nats == 0:
            return
        assert self.last_rate is not None
        rate, one = self.last_rate, torch.ones_like(self.gamma)
        raised = torch.where(rate > _TOLERANCE * self.target_nats, _RAISE * one, one)
        factor = torch.where(rate < self.target_nats, _LOWER * one, raised)
        self.gamma.mul_(factor).clamp_(MIN_GAMMA, 1.0)
