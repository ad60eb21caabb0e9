"""What a guide's codes hold, dimension by dimension."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vlae.reproducible import evaluation_context

_IMAGES_PER_PASS = 256
# Quadrature of the aggregate posterior, in posterior widths: step and reach beyond the means.
_STEP, _REACH = 0.5, 9.0
_MAX_POINTS = 2**20
_MAX_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class CodeDimensionRates:
    """Information per code dimension, averaged over images.

    Attributes:
        rates: ``(code_dim,)``, float64, nats per image.
        against: what each dimension of q(z | x) is compared with: ``"prior"`` or
            ``"aggregate posterior"``. Only against the prior do they add up to KL(q || p).
        num_images: images averaged over.
    """

    rates: Tensor
    against: str
    num_images: int


@torch.no_grad()
def code_marginals(guide: Callable, images: Tensor) -> dist.Normal:
    """Means and widths of the codes of images: q(z | x) as independent normals.

    Args:
        guide: called as ``guide(images)``; samples ``"z"`` from a diagonal Gaussian, in an image
            plate at ``dim=-1``. Modules run in evaluation mode and are left as they were.
        images: ``(N, *event)``, at least one.

    Returns:
        A normal distribution of batch shape ``(N, code_dim)``, float64, on the CPU.

    Raises:
        ValueError: there are no images, or the guide's ``"z"`` is no diagonal Gaussian.
    """
    if not len(images):
        raise ValueError("there are no images: expected at least one")
    locs: list[Tensor] = []
    scales: list[Tensor] = []
    with evaluation_context(images.device, guide):
        for part in images.split(_IMAGES_PER_PASS):
            sites = poutine.trace(guide).get_trace(part).nodes
            q = sites["z"]["fn"] if "z" in sites else None
            base = q.base_dist if isinstance(q, Independent) else None
            if not isinstance(base, torch.distributions.Normal) or base.batch_shape[:-1] != (
                len(part),
            ):
                raise ValueError(
                    f"the guide's 'z' is {'not there' if q is None else q}; expected "
                    "Normal(loc, scale).to_event(1) in an image plate. The dimensions of other "
                    "guides' codes (flows, full covariance) have no marginals in closed form: draw "
                    "codes with guide(x) instead"
                )
            locs.append(base.loc.double().cpu())
            scales.append(base.scale.double().cpu())
    return dist.Normal(torch.cat(locs), torch.cat(scales))


@torch.no_grad()
def code_dimension_rates(
    guide: Callable, images: Tensor, prior: Distribution | None = None
) -> CodeDimensionRates:
    r"""Say how much each code dimension tells about the images.

    With a factorized prior, :math:`\mathrm{KL}(q(z_d | x) \| p(z_d))`, exactly: a term of the rate.
    With any other (a flow couples the dimensions, so that the rate is no sum over them; not all
    families have a closed form) or none, the KL from the *aggregate posterior* of these N images,

    .. math::

        \frac{1}{N} \sum_n \mathrm{KL}\Big(q(z_d | x_n) \,\Big\|\, \frac{1}{N} \sum_m q(z_d | x_m)
        \Big),

    by quadrature: the information that one dimension alone carries about which of the images it is.
    It is at most log N, so take many images; informations of dimensions that tell the same overlap.

    Args:
        guide: as for `code_marginals`.
        images: ``(N, *event)``.
        prior: of codes, event shape ``(code_dim,)``, such as ``model.prior()``; None compares with
            the aggregate posterior.

    Raises:
        ValueError: as `code_marginals`; the prior has another number of dimensions; or a dimension
            has posteriors too narrow for the quadrature.

    Example:
        >>> code_dimension_rates(guide, x, model.prior()).rates
    """
    q = code_marginals(guide, images)
    if prior is not None and prior.event_shape != q.loc.shape[1:]:
        raise ValueError(
            f"the prior has event_shape {tuple(prior.event_shape)}, the guide's codes have "
            f"{q.loc.shape[1]} dimensions: pass the prior of the same model"
        )
    if isinstance(prior, Independent) and prior.base_dist.event_shape == ():
        device = images.device
        on_device = dist.Normal(q.loc.to(device), q.scale.to(device))
        with contextlib.suppress(NotImplementedError):  # families without a closed form
            rates = kl_divergence(on_device, prior.base_dist).mean(0).cpu()
            return CodeDimensionRates(rates, "prior", len(images))
    columns = zip(q.loc.T, q.scale.T, strict=True)
    rates = torch.stack([_information(d, loc, scale) for d, (loc, scale) in enumerate(columns)])
    return CodeDimensionRates(rates, "aggregate posterior", len(images))


def _information(dimension: int, loc: Tensor, scale: Tensor) -> Tensor:
    """Entropy of a mixture of normals ``(N,)`` less the mean entropy of its components."""
    low, high = (loc - _REACH * scale).min(), (loc + _REACH * scale).max()
    points = math.ceil((high - low) / (_STEP * scale.min())) + 1
    if not points <= _MAX_POINTS:
        raise ValueError(
            f"code dimension {dimension} has posteriors from {scale.min():.2g} to {scale.max():.2g}"
            f" wide over a range of {high - low:.2g}, too narrow for the quadrature: leave out the "
            "image with the narrowest"
        )
    grid = torch.linspace(float(low), float(high), points, dtype=loc.dtype)
    mixture = torch.cat(
        [
            torch.exp(dist.Normal(loc, scale).log_prob(part[:, None])).mean(1)
            for part in grid.split(max(1, _MAX_ENTRIES // len(loc)))
        ]
    )
    entropy = -torch.xlogy(mixture, mixture).sum() * (grid[1] - grid[0])
    return entropy - dist.Normal(loc, scale).entropy().mean()
