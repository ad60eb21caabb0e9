"""The effect of a code: images along paths between codes, and images whose code is replaced."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.reproducible import evaluation_context, set_seed


@torch.no_grad()
def interpolate_codes(
    prior: dist.TorchDistribution, start: Tensor, end: Tensor, count: int
) -> Tensor:
    """Interpolate between two codes, spherically in the noise space of a flow prior.

    A straight line between two codes leaves the region where the prior has most of its mass, as
    Gaussian noise in many dimensions lies near a sphere. Therefore both codes are mapped to noise,
    the noise is rotated from one to the other while its norm changes linearly, and the path is
    mapped back.

    The two codes are ``(*batch, code_dim)``; the result is ``(count, *batch, code_dim)`` and
    includes both of them.

    Raises:
        ValueError: the base distribution of the prior is not a standard normal.

    References:
        White, "Sampling Generative Networks", 2016, arXiv:1609.04468.
    """
    flow = isinstance(prior, dist.TransformedDistribution)
    transforms = prior.transforms if flow else []
    base: Any = prior.base_dist if flow else prior
    try:
        standard = bool((base.mean == 0).all() and (base.variance == 1).all())
    except (NotImplementedError, AttributeError):
        standard = False
    if not standard:
        raise ValueError(
            f"interpolation needs a prior made of standard normal noise, got "
            f"{type(base).__name__}: use StandardNormalPrior or FlowPrior, or torch.lerp between "
            "the codes"
        )
    noise = torch.stack([start, end])
    for transform in reversed(transforms):
        noise = transform.inv(noise)
    norms = noise.norm(dim=-1, keepdim=True)
    first, last = noise / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    # Zero noise has no direction: it moves along that of the other end.
    first, last = torch.where(norms[0] > 0, first, last), torch.where(norms[1] > 0, last, first)
    angle = (first * last).sum(-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
    t = torch.linspace(0, 1, count, dtype=start.dtype, device=start.device)
    t = t.view(-1, *[1] * start.dim())
    path = (((1 - t) * angle).sin() * first + (t * angle).sin() * last) / angle.sin()
    codes = path * torch.lerp(norms[0], norms[1], t)
    for transform in transforms:
        codes = transform(codes)
    return codes


@torch.no_grad()
def interpolate_images(
    model: Any, guide: Callable[..., Any], x: Tensor, count: int = 9, seed: int = 0
) -> Tensor:
    """Sample images ``(count, N, C, H, W)`` on paths between the codes of N pairs of images.

    ``x`` has shape ``(2 N, C, H, W)``: first all starts, then all ends. All images of a path are
    sampled with the same uniform random numbers, so they differ only because their codes do.
    ``count`` is the number of images on a path, with both ends.

    Raises:
        ValueError: the number of images is odd, or the prior is not made of standard normal noise.
    """
    if len(x) % 2:
        raise ValueError(
            "expected pairs of images (2 N, C, H, W), first all starts, then all ends; got "
            f"{len(x)} images"
        )
    with evaluation_context(x.device, model, guide):
        set_seed(seed, x.device)
        z: Any = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        start, end = z.chunk(2)
        images = []
        for codes in interpolate_codes(model.prior(), start, end, count):
            set_seed(seed, x.device)
            images.append(model.likelihood(model.decoder(codes)).sample())
    return torch.stack(images)


@dataclass(frozen=True, eq=False)
class CodeSwap:
    """Images whose code was replaced by a sample from the prior, and the code's effect.

    Attributes:
        images: ``(N, C, H, W)``.
        own_code: the lower half of each image resampled given its own code.
        prior_code: the lower half resampled given the code from the prior.
        prior_sample: whole images sampled given the code from the prior.
        log_ratio: ``log p(x_i | own code) - log p(x_i | code from the prior)`` of each pixel given
            the pixels before it, ``(N, H, W)``, in nats.
    """

    images: Tensor
    own_code: Tensor
    prior_code: Tensor
    prior_sample: Tensor
    log_ratio: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "CodeSwap":
        """Apply a function to all images, such as ``to_unit_range`` before plotting."""
        names = ("images", "own_code", "prior_code", "prior_sample")
        return replace(self, **{name: function(getattr(self, name)) for name in names})


@torch.no_grad()
def swap_codes(model: Any, guide: Callable[..., Any], x: Tensor, seed: int = 0) -> CodeSwap:
    """Replace the codes of images ``(N, C, H, W)`` by samples from the prior.

    Raises:
        ValueError: the likelihood is not a `PixelCNN`.
    """
    with evaluation_context(x.device, model, guide):
        set_seed(seed, x.device)
        z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        own = model.likelihood(model.decoder(z))
        other = model.likelihood(model.decoder(model.prior().sample(x.shape[:1])))
        if not isinstance(own, PixelCNN):
            raise ValueError(
                f"the likelihood is a {type(own).__name__}, whose pixels do not depend on each "
                "other: only a PixelCNN can complete images"
            )
        known = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
        known[: len(known) // 2] = True
        return CodeSwap(
            images=x,
            own_code=own.complete(x, known),
            prior_code=other.complete(x, known),
            prior_sample=other.sample(),
            log_ratio=own.pixel_log_prob(x) - other.pixel_log_prob(x),
        )
