"""Lossy compression of images to codes and back.

All functions work on any Pyro model and guide with an image plate at ``dim=-1``, a latent site
``"z"``, and an image site ``"x"``. Modules are run in evaluation mode, without gradients, and keep
their state; samples use the global random state (`pyro.set_rng_seed`).

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, figures 1 and 2.
"""

import re
from collections.abc import Callable
from math import prod
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_vlae.distributions.temperature import check_temperature, sample_at
from pyro_vlae.infer.images import check_images, check_pixels
from pyro_vlae.infer.particles import is_factor, random_sites, sample_sites
from pyro_vlae.infer.traces import run
from pyro_vlae.reproducible import evaluation_mode

SAMPLES = "_samples"


@torch.no_grad()
def encode(
    guide: Callable[..., Any], images: Tensor, num_samples: int | None = None, *, mean: bool = False
) -> Tensor:
    """Codes of images: samples ``z ~ q(z | x)``, or the mean of q(z | x).

    Args:
        guide: called as ``guide(images)``.
        images: ``(N, *image_shape)``.
        num_samples: codes per image; one, without a leading dimension, if None.
        mean: return the mean instead of samples.

    Returns:
        Codes ``(N, code_dim)``, or ``(num_samples, N, code_dim)``.

    Raises:
        ValueError: the images are not a tensor or, under validation, not finite; the guide has no
            site ``"z"`` or is a model; both num_samples and mean are given; or the mean has no
            closed form (as for a flow, or a guide with further sites).

    Example:
        >>> decode(model, encode(guide, x, mean=True), temperature=0)
    """
    check_images(images, values=is_validation_enabled())
    with evaluation_mode(guide):
        return _sample_codes(guide, images, num_samples, mean)["z"]


@torch.no_grad()
def decode(model: Callable[..., Any], codes: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Sample images ``x' ~ p(x | z)`` from codes.

    The size of the images must follow from the codes and N. To generate new images at a low
    temperature, sample the codes from the prior::

        decode(model, model.prior(temperature=0.8).sample((64,)), temperature=0)

    Args:
        model: called as ``model(batch_size=N)``.
        codes: ``(*batch, N, code_dim)``.
        temperature: of the pixels, at least 0: 1 samples exactly; 0 chooses the most probable value
            of each pixel given the pixels before it, which shows what the code determines.

    Returns:
        Images ``(*batch, N, *image_shape)``.

    Raises:
        ValueError: the codes have fewer than two dimensions, the temperature is out of range, or
            the model cannot run on codes of this shape.
    """
    check_temperature(temperature)
    if not isinstance(codes, Tensor):
        raise ValueError(
            f"codes must be a tensor, got {type(codes).__name__}: pass torch.from_numpy(codes)"
        )
    if codes.dim() < 2:
        raise ValueError(
            f"codes must have shape (*batch, N, code_dim), got {tuple(codes.shape)}: add a "
            "dimension for the images, codes.unsqueeze(0)"
        )
    batch = codes.shape[:-2]
    given = {"z": codes.reshape(prod(batch), *codes.shape[-2:])}
    with evaluation_mode(model):
        try:
            sites = sites_given_codes(model, given, codes.shape[-2])
        except (RuntimeError, TypeError) as error:
            sized = isinstance(error, TypeError) or re.search("shape|size", str(error), re.I)
            if isinstance(error, torch.OutOfMemoryError) or not sized:
                raise
            raise ValueError(
                f"{type(model).__name__} cannot decode codes of shape {tuple(codes.shape)} "
                f"({error}): the size of its images must follow from the codes and their number "
                "(that of piano rolls does not)"
            ) from error
        images = sample_at(sites["x"]["fn"], temperature)
    return images.reshape(*batch, *images.shape[1:])


@torch.no_grad()
def reconstruct(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    images: Tensor,
    num_samples: int | None = None,
    *,
    mean: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Lossy decompressions of images: ``z ~ q(z | x)``, ``x' ~ p(x | z)``.

    Args:
        model: called as ``model(images)``, with the same latent sites as the guide.
        guide: called as ``guide(images)``.
        images: ``(N, *image_shape)``.
        num_samples: decompressions of each image; one, without a leading dimension, if None.
        mean: decode the mean of q(z | x) instead of a sample.
        temperature: of the pixels, as in `decode`.

    Returns:
        Images ``(N, *image_shape)``, or ``(num_samples, N, *image_shape)``.

    Raises:
        ValueError: as for `encode` and `decode`, or, under validation, a pixel is outside the
            support of the likelihood.
    """
    check_temperature(temperature)
    validating = is_validation_enabled()
    check_images(images, values=validating)
    with evaluation_mode(model, guide):
        codes = _sample_codes(guide, images, num_samples, mean)
        if num_samples is None:
            codes = {name: values.unsqueeze(0) for name, values in codes.items()}
        site = sites_given_codes(model, codes, images)["x"]
        if validating and site["is_observed"] and site["mask"] is None:
            check_pixels(site["fn"], site["value"])
        samples = sample_at(site["fn"], temperature)
    return samples[0] if num_samples is None else samples


def sites_given_codes(
    model: Callable[..., Any], codes: dict[str, Tensor], images: Tensor | int
) -> dict[str, Any]:
    """The model's sites given its codes; ``sites["x"]["fn"]`` is p(x | z), not yet sampled.

    Args:
        model: called as ``model(images)``, or as ``model(batch_size=images)`` with their number N.
        codes: values ``(S, N, *event)`` by latent site; the sites have batch shape ``(S, N)``.
        images: ``(N, *image_shape)`` or N.

    Raises:
        ValueError: the model has no site ``"x"`` or a latent site without a code.
    """
    size = len(next(iter(codes.values())))
    program = pyro.plate(SAMPLES, size, dim=-2)(poutine.condition(model, data=codes))
    given = (images,) if isinstance(images, Tensor) else ()
    with SkipImages():
        trace = run(program, *given, **({} if given else {"batch_size": images}))
    sites = dict(sample_sites(trace))
    if {name for name, site in sites.items() if not is_factor(site)} != {*codes, "x"}:
        raise ValueError(
            f"the model samples {sorted(sites)}, expected the image site 'x' and the sites of the "
            f"codes, {sorted(codes)}"
        )
    return sites


class SkipImages(Messenger):
    """Sets an unobserved site ``"x"`` to zero: its value is not needed, and costly to sample."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] == "x" and msg["value"] is None:
            msg["value"] = torch.zeros(())


def _sample_codes(
    guide: Callable[..., Any], images: Tensor, num_samples: int | None, mean: bool
) -> dict[str, Tensor]:
    """Values of the guide's sites by name, ``(N, *event)`` or ``(num_samples, N, *event)``."""
    if mean and num_samples is not None:
        raise ValueError(f"give either num_samples or mean=True, got num_samples={num_samples}")
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    program = guide
    if num_samples is not None:
        program = pyro.plate(SAMPLES, num_samples, dim=-2)(guide)
    trace = run(program, images)
    sites = dict(sample_sites(trace))  # those of factors are auxiliary, too
    sites = {name: site for name, site in sites.items() if not site["infer"].get("is_auxiliary")}
    if "z" not in sites:
        raise ValueError(f"the guide samples {sorted(sites)}, expected a site 'z'")
    if "x" in sites:
        raise ValueError("the guide samples 'x', so it is a model: encode takes the guide")
    if not mean:
        batch = (*(() if num_samples is None else (num_samples,)), len(images))
        return {n: s["value"].expand(*batch, *s["fn"].event_shape) for n, s in sites.items()}
    try:
        if {*random_sites(trace)} - {"z"}:  # given them, the site's mean is only a conditional one
            raise NotImplementedError
        return {name: site["fn"].mean for name, site in sites.items()}
    except NotImplementedError:
        raise ValueError(
            "the mean of q(z | x) has no closed form (for example, the guide is a flow or samples "
            "other sites): average samples instead, "
            "encode(guide, images, num_samples=100).mean(0)"
        ) from None
