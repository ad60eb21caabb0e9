"""The information that each dimension of a guide's codes contains."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vlae.infer.particles import random_sites
from pyro_vlae.reproducible import evaluation_context

_IMAGES_PER_PASS = 256
_SAMPLES = 2000  # per dimension, at least; the errors are about 0.02 nats
_GAUSSIANS = (dist.Normal, dist.MultivariateNormal, dist.LowRankMultivariateNormal)
_MAX_ENTRIES = 2**16  # of the matrix of samples and images, so that it fits into the CPU cache


@dataclass(frozen=True, eq=False)
class CodeDimensionRates:
    """Information per code dimension, averaged over images.

    Attributes:
        rates: ``(code_dim,)``, float64, nats per image.
        against: the second distribution of the KL divergence: ``"prior"`` or
            ``"aggregate posterior"``. Only rates of a diagonal guide against the prior add up to
            KL(q || p).
        num_images: number of images averaged over.
    """

    rates: Tensor
    against: str
    num_images: int


@torch.no_grad()
def code_marginals(guide: Callable, images: Tensor) -> dist.Normal:
    """Return the marginals q(z_d | x) of each code dimension, for guides that are Gaussian.

    Args:
        guide: called as ``guide(images)``; samples ``"z"`` from a Gaussian (diagonal, with full
            covariance, or low-rank), in an image plate at ``dim=-1``. It is run in evaluation mode
            and left as it was.
        images: ``(N, *event)``, at least one.

    Returns:
        A normal distribution of batch shape ``(N, code_dim)``, in the guide's precision, on the
        CPU.

    Raises:
        ValueError: there are no images, the guide's ``"z"`` is not Gaussian, or the guide samples
            other sites, too.
    """
    if not len(images):
        raise ValueError("there are no images: expected at least one")
    parameters: list[Tensor] = []
    with evaluation_context(images.device, guide):
        for part in images.split(_IMAGES_PER_PASS):
            trace = poutine.trace(guide).get_trace(part)
            if others := {*random_sites(trace)} - {"z"}:
                raise ValueError(
                    f"the guide also samples {sorted(others)}, given which q(z | x) is random: its "
                    "marginals have no closed form. Sample codes with pyro_vlae.infer.encode "
                    "instead"
                )
            sites = trace.nodes
            q: Any = sites["z"]["fn"] if "z" in sites else None
            base = q.base_dist if isinstance(q, Independent) else q
            vectors = isinstance(base, _GAUSSIANS) and len(q.event_shape) == 1
            if not vectors or q.batch_shape != (len(part),):
                raise ValueError(
                    f"the guide's 'z' is {'missing' if q is None else q}; expected "
                    "Normal(loc, scale).to_event(1), MultivariateNormal, or "
                    "LowRankMultivariateNormal in an image plate. The dimensions of other codes "
                    "(flows) have no marginals in closed form: sample codes with "
                    "pyro_vlae.infer.encode instead"
                )
            parameters.append(torch.stack([q.mean, q.stddev]).cpu())
    return dist.Normal(*torch.cat(parameters, 1))


@torch.no_grad()
def code_dimension_rates(
    guide: Callable, images: Tensor, prior: Distribution | None = None
) -> CodeDimensionRates:
    r"""Compute how much information about the images each code dimension contains.

    With a factorized prior this is :math:`\mathrm{KL}(q(z_d | x) \| p(z_d))` in closed form; for a
    diagonal Gaussian guide, a term of the rate. A flow prior couples the dimensions, so the rate is
    not a sum over them. With a flow or without a prior, the KL is taken from the *aggregate
    posterior* of these N images,

    .. math::

        \frac{1}{N} \sum_n \mathrm{KL}\Big(q(z_d | x_n) \,\Big\|\, \frac{1}{N} \sum_m q(z_d | x_m)
        \Big),

    estimated from samples with a fixed seed: the mutual information between this dimension alone
    and the index of the image. It is at most log N, so use many images. Redundant dimensions are
    counted more than once.

    Args:
        guide: as for `code_marginals`.
        images: ``(N, *event)``.
        prior: with event shape ``(code_dim,)``, such as ``model.prior()``; if None, the codes are
            compared with the aggregate posterior.

    Raises:
        ValueError: as for `code_marginals`, or the prior has another number of dimensions.

    Example:
        >>> code_dimension_rates(guide, x, model.prior()).rates
    """
    q = code_marginals(guide, images)
    q = dist.Normal(q.loc.double(), q.scale.double())
    if prior is not None and prior.event_shape != q.loc.shape[1:]:
        raise ValueError(
            f"the prior has event_shape {tuple(prior.event_shape)}, the guide's codes have "
            f"{q.loc.shape[1]} dimensions: pass the prior of the same model"
        )
    if isinstance(prior, Independent) and prior.base_dist.event_shape == ():
        on_device = dist.Normal(q.loc.to(images.device), q.scale.to(images.device))
        with contextlib.suppress(NotImplementedError):  # families without a closed form
            rates = kl_divergence(on_device, prior.base_dist).mean(0).cpu()
            return CodeDimensionRates(rates, "prior", len(images))
    generator = torch.Generator().manual_seed(0)
    columns = zip(q.loc.T, q.scale.T, strict=True)
    rates = torch.stack([_information(loc, scale, generator) for loc, scale in columns])
    return CodeDimensionRates(rates, "aggregate posterior", len(images))


def _information(loc: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Estimate the mean KL of normal distributions ``(N,)`` from their mixture."""
    count = len(loc)
    shape = math.ceil(_SAMPLES / count), count
    noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device="cpu")
    z = (loc + scale * noise).flatten()
    mixture = [
        torch.logsumexp(dist.Normal(loc, scale).log_prob(part[:, None]), 1)
        for part in z.split(max(1, _MAX_ENTRIES // count))
    ]
    own = dist.Normal(loc, scale).log_prob(z.view(-1, count))
    return own.mean() - torch.cat(mixture).mean() + math.log(count)
