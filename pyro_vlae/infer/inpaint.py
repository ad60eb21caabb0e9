"""Sampling the unknown pixels of images given any known ones.

References:
    Mattei and Frellsen, "Leveraging the Exact Likelihood of Deep Latent Variable Models", 2018,
    arXiv:1802.04826, section 4 (Metropolis-within-Gibbs over code and unknown pixels).
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Independent

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.distributions.sampling import check_completable, expand_mask
from pyro_vlae.distributions.temperature import check_temperature, sample_at
from pyro_vlae.infer.codes import SAMPLES, SkipImages, sites_given_codes
from pyro_vlae.infer.images import check_images, check_pixels
from pyro_vlae.infer.particles import is_factor, sample_sites
from pyro_vlae.infer.traces import run
from pyro_vlae.reproducible import evaluation_mode

Codes = dict[str, Tensor]


@torch.no_grad()
def inpaint(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    images: Tensor,
    known: Tensor,
    num_samples: int | None = None,
    *,
    num_particles: int = 256,
    num_sweeps: int = 20,
    temperature: float = 1.0,
) -> Tensor:
    """Sample the unknown pixels of images given the known ones, which may be any pixels.

    The target is p(z, unknown | known), approximated in two steps:

    1. Importance resampling: of ``num_particles`` codes sampled from the prior, each with unknown
       pixels sampled in raster order from the likelihood, ``num_samples`` are chosen with
       probabilities proportional to the likelihood of the known pixels.
    2. ``num_sweeps`` times, Metropolis steps replace each sample's code, proposed by the guide, and
       then its unknown pixels, proposed by the likelihood.

    More particles bring the first step closer to the target; the second leaves the target invariant
    and converges to it with more sweeps. With few of both, the samples depend on the proposals. But
    even then the unknown pixels of a sample are exact given its code if no known pixel has an
    unknown one in its window (as when the top rows are known) or the likelihood is factorized.

    Args:
        model: called as ``model(images)``; samples ``"x"`` from a `PixelCNN` or from independent
            pixels (``.to_event(3)``).
        guide: called as ``guide(images)``, for any number of images; its sites have densities. It
            is not called if there are no sweeps.
        images: ``(N, C, H, W)``; unknown pixels are ignored.
        known: bool, ``(H, W)`` or ``(N, H, W)``: the pixels to keep.
        num_samples: samples for each image; one, without a leading dimension, if None.
        num_particles: codes from the prior for each image.
        num_sweeps: pairs of a Metropolis step for the code and one for its unknown pixels.
        temperature: of the unknown pixels, at the end, as in `decode`.

    Returns:
        Images ``(N, C, H, W)``, or ``(num_samples, N, C, H, W)``.

    Raises:
        ValueError: an argument is out of range, the mask does not fit the images, model or guide
            are not of this form, or, under validation, a known pixel is outside the support of the
            likelihood.

    Example:
        >>> known = torch.rand(28, 28) < 0.3
        >>> inpaint(model, guide, x, known, num_samples=6)
    """
    check_temperature(temperature)
    count = 1 if num_samples is None else num_samples
    if min(count, num_particles) < 1 or num_sweeps < 0:
        raise ValueError(
            "num_samples and num_particles must be at least 1 and num_sweeps at least 0, got "
            f"{num_samples}, {num_particles} and {num_sweeps}"
        )
    if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must have shape (N, C, H, W), N at least 1, got {found}")
    known = expand_mask(known, (len(images), *images.shape[-2:]), images.device)
    blank = torch.where(known.unsqueeze(1), images, 0)  # the rest may be anything, even NaN
    validating = is_validation_enabled()
    check_images(blank, values=validating)
    with evaluation_mode(model, guide):
        starts = [
            _resample(model, image, mask, num_particles, count, validating)
            for image, mask in zip(blank.split(1), known.split(1), strict=True)
        ]
        # One row of chains: those of the first sample of each image, of the second, ...
        codes = {
            name: torch.cat([start[name] for start in starts], 1).flatten(0, 1).unsqueeze(0)
            for name in starts[0]
        }
        x, known = codes.pop("x")[0], known.repeat(count, 1, 1)
        for _ in range(num_sweeps):
            codes = _move_codes(model, guide, codes, x)
            x = _move_pixels(model, codes, x, known)
        if temperature != 1:
            likelihood = sites_given_codes(model, codes, x)["x"]["fn"]
            x = _complete(likelihood, x[None], known, temperature)[0]
    x = x.unflatten(0, (count, len(images)))
    return x[0] if num_samples is None else x


def _resample(
    model: Callable[..., Any],
    image: Tensor,
    known: Tensor,
    num_particles: int,
    count: int,
    validating: bool,
) -> Codes:
    """Values ``(count, 1, *event)`` of the latent sites and of ``"x"`` for one image."""
    program = pyro.plate(SAMPLES, num_particles, dim=-2)(poutine.uncondition(model))
    with SkipImages():
        sites = dict(sample_sites(run(program, image)))
    if "x" not in sites or len(sites) < 2:
        raise ValueError(f"the model samples {sorted(sites)}, expected a code and the site 'x'")
    if factors := [name for name, site in sites.items() if is_factor(site)]:
        raise ValueError(
            f"the model has the factor {factors[0]!r} (pyro.factor), which inpaint cannot weigh: "
            "leave it out, or write it as a density of the code or the image"
        )
    likelihood = sites.pop("x")["fn"]
    if validating:
        check_pixels(likelihood, image, known.unsqueeze(1))
    batch = (num_particles, 1)
    values = {n: s["value"].expand(*batch, *s["fn"].event_shape) for n, s in sites.items()}
    particles = image.expand(num_particles, *image.shape)
    exact = _factorizes(likelihood, known)
    if not exact:
        particles = _complete(likelihood, particles, known)
    log_weight = _known_log_prob(likelihood, particles, known)
    chosen = torch.multinomial(log_weight[:, 0].softmax(0), count, replacement=True)
    values = {name: value[chosen] for name, value in values.items()}
    if not exact:
        return values | {"x": particles[chosen]}
    likelihood = sites_given_codes(model, values, image)["x"]["fn"]
    return values | {"x": _complete(likelihood, image.expand(count, *image.shape), known)}


def _move_codes(
    model: Callable[..., Any], guide: Callable[..., Any], codes: Codes, x: Tensor
) -> Codes:
    """A Metropolis step for p(z | x) of each image, proposed by the guide."""
    sites = dict(sample_sites(run(guide, x)))
    if sites.keys() != codes.keys():
        raise ValueError(
            f"the guide samples {sorted(sites)}, the model {sorted(codes)}: expected the same "
            "sites; to leave the guide out, set num_sweeps=0"
        )
    proposed = {name: site["value"].unsqueeze(0) for name, site in sites.items()}

    def log_weight(values: Codes) -> Tensor:
        given = sites_given_codes(model, values, x)
        log_p = given["x"]["fn"].log_prob(x)
        log_p = log_p + sum(given[name]["fn"].log_prob(values[name]) for name in values)
        # The guide's later sites may depend on its earlier ones.
        data = {name: value[0] for name, value in values.items()}
        scored = dict(sample_sites(run(poutine.condition(guide, data=data), x)))
        try:
            return log_p - sum(scored[name]["fn"].log_prob(data[name]) for name in values)
        except (KeyError, NotImplementedError) as error:  # what Pyro's transforms raise
            raise ValueError(
                f"the guide cannot score codes other than its own samples ({error}): use one with "
                "a density, such as GaussianGuide, or set num_sweeps=0 to leave it out"
            ) from error

    accepted = _accepted(log_weight(proposed) - log_weight(codes))
    return {name: _where(accepted, proposed[name], codes[name]) for name in codes}


def _move_pixels(model: Callable[..., Any], codes: Codes, x: Tensor, known: Tensor) -> Tensor:
    """A Metropolis step for p(unknown | known, z) of each image."""
    likelihood = sites_given_codes(model, codes, x)["x"]["fn"]
    proposed = _complete(likelihood, x[None], known)
    if _factorizes(likelihood, known):
        return proposed[0]
    gain = _known_log_prob(likelihood, proposed, known)
    gain = gain - _known_log_prob(likelihood, x[None], known)
    return _where(_accepted(gain), proposed, x[None])[0]


def _accepted(log_ratio: Tensor) -> Tensor:
    return torch.rand_like(log_ratio).log() < log_ratio


def _where(condition: Tensor, value: Tensor, other: Tensor) -> Tensor:
    """Choose by a condition on the leading dimensions."""
    return torch.where(condition.view(*condition.shape, *[1] * (value.dim() - 2)), value, other)


def _complete(likelihood: Any, x: Tensor, known: Tensor, temperature: float = 1.0) -> Tensor:
    """Sample unknown pixels given those before them in raster order."""
    if isinstance(likelihood, PixelCNN):
        return likelihood.complete(x, known, temperature, exact=False)
    return torch.where(known.unsqueeze(1), x, sample_at(likelihood, temperature))


def _known_log_prob(likelihood: Any, x: Tensor, known: Tensor) -> Tensor:
    """Log-probability of the known pixels of images ``(S, N, C, H, W)``, ``(S, N)``."""
    if isinstance(likelihood, PixelCNN):
        log_prob = likelihood.pixel_log_prob(x)
    elif (
        isinstance(likelihood, Independent)
        and len(likelihood.event_shape) == 3
        and not likelihood.base_dist.event_shape
    ):
        log_prob = likelihood.base_dist.log_prob(x).sum(-3)
    else:
        raise ValueError(
            f"the likelihood is a {type(likelihood).__name__}, expected a PixelCNN or independent "
            "pixels, for example Bernoulli(...).to_event(3)"
        )
    return torch.where(known, log_prob, 0).sum((-2, -1))


def _factorizes(likelihood: Any, known: Tensor) -> bool:
    """Whether no known pixel depends on an unknown one."""
    if not isinstance(likelihood, PixelCNN):
        return True
    try:
        check_completable(likelihood.window, known)
    except ValueError:
        return False
    return True
