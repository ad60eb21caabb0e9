"""Codes sampled by a guide, and their log-probabilities under guide and model."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vlae.infer.traces import run
from pyro_vlae.reproducible import derive_seed, set_seed

PARTICLES = "_importance_particles"
# Codes per pass: more would exceed the cache of a CPU; this many keep a GPU busy.
_CPU_CHUNK, _GPU_CHUNK = 256, 4096

Codes = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class ImportanceSamples:
    """K codes for each of b consecutive images, on the images' device.

    Attributes:
        images: slice of these images among all images.
        codes: values ``(K, b, *event)`` by latent site.
        log_q: log q(z | x) in nats, ``(K, b)``, float64, like the next two.
        log_prior: log p(z).
        log_likelihood: log p(x | z), NaN outside the support.
    """

    images: slice
    codes: Codes
    log_q: Tensor
    log_prior: Tensor
    log_likelihood: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x)."""
        return self.log_prior + self.log_likelihood - self.log_q

    @property
    def log_ratio(self) -> Tensor:
        """Log q(z | x) - log p(z), whose mean is the KL."""
        return self.log_q - self.log_prior


def importance_samples(
    model: Callable,
    guide: Callable,
    x: Tensor,
    num_samples: int,
    seed: int,
    index: list[int],
    max_codes_per_chunk: int | None = None,
    start: int = 0,
    part: slice = slice(None),
) -> Iterator[ImportanceSamples]:
    """Sample codes of the images ``x[part][start:]`` and score them, a block of them at a time.

    Iterate inside `evaluation_context`, without gradients. If the guide samples nothing, there is
    one sample per image, without codes.

    ``index`` holds the index of each image of ``x`` in its data set, which seeds its codes. The
    other arguments, and the errors raised, are those of `marginal_log_likelihood`.
    """
    every_x, every_index = x, index
    x, index = x[part], index[part]
    if start == len(x):
        return
    together = None
    try:
        codes, _, points = sample_codes(guide, x[:1], num_samples, derive_seed(seed, index[0]))
    except Exception as error:
        # A guide with parameters for each image can only be called with all of them.
        try:
            every = sample_codes(guide, every_x, num_samples, derive_seed(seed, *every_index))
        except Exception:
            raise error from None
        together = {name: code[:, part] for name, code in every[0].items()}, every[1][:, part]
        codes, points = {name: code[:, :1] for name, code in together[0].items()}, every[2]
    if points:
        _refuse_point_estimates(model, codes, points, x[:1], num_samples)
    num_samples = num_samples if codes else 1
    score = _ChunkedScore(model, max_codes_per_chunk or default_chunk(x.device))
    while start < len(x):
        stop = min(len(x), start + max(1, score.max_codes // num_samples))
        if together:
            codes = {name: code[:, start:stop] for name, code in together[0].items()}
            log_q = together[1][:, start:stop]
        else:
            # One image at a time: its codes must not depend on which others are scored.
            sampled = [
                sample_codes(guide, x[i : i + 1], num_samples, derive_seed(seed, index[i]))
                for i in range(start, stop)
            ]
            codes = {name: torch.cat([c[name] for c, _, _ in sampled], 1) for name in codes}
            log_q = torch.cat([q for _, q, _ in sampled], 1)
        log_p = score(codes, x[start:stop], num_samples)
        yield ImportanceSamples(slice(start, stop), codes, log_q, *log_p)
        start = stop


def default_chunk(device: torch.device) -> int:
    """The number of codes to score in one pass."""
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


def sample_codes(
    guide: Callable, images: Tensor, num_samples: int, seed: int
) -> tuple[Codes, Tensor, list[str]]:
    """Sample codes of images ``(b, *event)``.

    Returns:
        Values by site, log q(z | x) ``(K, b)``, and the names of sites that are point estimates:
        Delta distributions that do not depend on an auxiliary site.
    """
    set_seed(seed, images.device)
    trace = run(pyro.plate(PARTICLES, num_samples, dim=-2)(guide), images)
    shape = (num_samples, len(images))
    log_q = torch.zeros(shape, dtype=torch.float64, device=images.device)
    codes: Codes = {}
    auxiliary: list[str] = []
    random: list[str] = []
    points: list[str] = []
    for name, site in sample_sites(trace):
        # From the trace that sampled it: some flows can invert only a value just computed.
        log_q = log_q + _site_log_prob(name, site, shape, "guide")
        if is_factor(site):
            continue
        if site["infer"].get("is_auxiliary"):
            auxiliary.append(name)
            continue
        codes[name] = site["value"].expand(shape + site["fn"].event_shape)
        (points if is_point(site) else random).append(name)
    if auxiliary and random:
        # Codes that are functions of it are allowed (Delta sites, as in Pyro's autoguides).
        raise ValueError(
            f"the guide's site {auxiliary[0]!r} is auxiliary and {random[0]!r} is sampled given "
            f"it, so log q(z | x) would require integrating it out. Sample {auxiliary[0]!r} in the "
            "model, too (from any density given x and the codes), and leave is_auxiliary out"
        )
    return codes, log_q, [] if auxiliary else points


def is_point(site: Any) -> bool:
    """Whether a site's distribution is a Delta."""
    return isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta)


def random_sites(trace: poutine.Trace) -> list[str]:
    """Names of the sites whose values differ from run to run."""
    sites = sample_sites(trace)
    return [name for name, site in sites if not (site["is_observed"] or is_point(site))]


def is_factor(site: Any) -> bool:
    """Whether a site is a `pyro.factor`, a log-probability without a value."""
    return isinstance(site["fn"], Unit)


def _refuse_point_estimates(
    model: Callable, codes: Codes, points: list[str], image: Tensor, num_samples: int
) -> None:
    """Raise a ValueError if the guide's code is a Delta where the model's has a density.

    Its log q is 0, so every log-weight would be log p(x, z) at one point. The estimate would be
    wrong and, as all weights are equal, no diagnostic would show it.
    """
    for name, site in sample_sites(_model_trace(model, codes, image, num_samples)):
        if name in points and not is_point(site):
            raise ValueError(
                f"the guide's site {name!r} is a point estimate (a Delta distribution), so log "
                "p(x) cannot be estimated with it: every log-weight would be log p(x, z) at "
                "that point. Score with a guide that has a density, such as GaussianGuide"
            )


def score_codes(
    model: Callable, codes: Codes, images: Tensor, num_samples: int
) -> tuple[Tensor, Tensor]:
    """Log p(z) and log p(x | z), ``(K, b)``, of K = ``num_samples`` codes for each of b images.

    The latter is NaN outside the support of the likelihood.
    """
    trace = _model_trace(model, codes, images, num_samples)
    shape = (num_samples, len(images))
    log_prior = log_likelihood = torch.zeros(shape, dtype=torch.float64, device=images.device)
    observed = False
    for name, site in sample_sites(trace):
        log_prob = _site_log_prob(name, site, shape, "model")
        if name in codes:
            log_prior = log_prior + log_prob
        elif site["is_observed"]:
            if not is_factor(site):
                log_prob = _nan_outside_support(log_prob, site)
            log_likelihood, observed = log_likelihood + log_prob, True
        else:
            raise ValueError(
                f"the model's site {name!r} is neither observed nor sampled by the guide (which "
                f"samples {sorted(codes)}): let the guide sample it, or observe it"
            )
    missing = sorted(set(codes) - set(trace.nodes))
    if missing or not observed:
        wrong = f"lacks the guide's sites {missing}" if missing else "observes nothing"
        raise ValueError(f"the model, called as model(x), {wrong}: no log p(x) can be computed")
    return log_prior, log_likelihood


def _nan_outside_support(log_prob: Tensor, site: Any) -> Tensor:
    """Replace log-probabilities of values outside the support, except those that are masked."""
    with contextlib.suppress(NotImplementedError):  # some distributions have no support
        inside = site["fn"].support.check(site["value"])
        # It may have been checked for each pixel.
        surplus = len(site["fn"].event_shape) + inside.dim() - site["value"].dim()
        if surplus > 0:
            inside = inside.flatten(-surplus).all(-1)
        log_prob = torch.where(inside, log_prob, math.nan)
    return scale_and_mask(log_prob, mask=site["mask"])


def _model_trace(model: Callable, codes: Codes, images: Tensor, num_samples: int) -> poutine.Trace:
    """Run the model on codes of these images."""
    program = poutine.condition(pyro.plate(PARTICLES, num_samples, dim=-2)(model), data=codes)
    return run(program, images)


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Names and sites of a trace, without plates and `pyro.deterministic`."""
    site: Any
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not site["infer"].get("_deterministic"):
            yield name, site


def _site_log_prob(name: str, site: Any, shape: tuple[int, int], role: str) -> Tensor:
    """Log-probability of a site, unscaled and masked, in float64, ``(particles, images)``."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    log_prob = scale_and_mask(log_prob, mask=site["mask"])
    plates = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    sizes = zip(reversed(log_prob.shape), reversed(shape), strict=False)
    fits = log_prob.ndim <= 2 and all(have in (1, want) for have, want in sizes)
    if plates.get(-1) != shape[1] or not fits:
        raise ValueError(
            f"the {role}'s site {name!r} has log_prob of shape {tuple(log_prob.shape)} and "
            f"{f'an image plate of size {plates[-1]}' if -1 in plates else 'no image plate'}; "
            f"expected (particles, images) = {shape}. Sample it inside "
            "`with pyro.plate('images', len(x), dim=-1):` and move all other dimensions into the "
            "event with `.to_event(...)`. A guide with parameters for each image, such as "
            "AutoNormal, must be given exactly the images that it was fitted to"
        )
    return log_prob.double().expand(shape)


class _ChunkedScore:
    """`score_codes` with at most ``max_codes`` codes in one pass, halved when memory runs out."""

    def __init__(self, model: Callable, max_codes: int) -> None:
        self.model = model
        self.max_codes = max_codes

    def __call__(self, codes: Codes, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if count * len(images) <= self.max_codes:
            try:
                return score_codes(self.model, codes, images, count)
            except torch.OutOfMemoryError:
                if count * len(images) == 1:
                    raise
            # Outside the handler, whose traceback would keep the memory allocated.
            self.max_codes = count * len(images) // 2
            if images.is_cuda:
                torch.cuda.empty_cache()
        # Score equal parts: split by codes, or by images if one code of each is too much.
        dim = 0 if len(images) <= self.max_codes and count > 1 else 1
        size, other = (count, len(images)) if dim == 0 else (len(images), count)
        parts = math.ceil(size / max(1, self.max_codes // other))
        edges = np.linspace(0, size, 1 + parts).round().astype(int).tolist()
        scores = []
        for a, b in pairwise(edges):
            part = {name: value.narrow(dim, a, b - a) for name, value in codes.items()}
            chosen = (images, b - a) if dim == 0 else (images[a:b], count)
            scores.append(self(part, *chosen))
        log_prior, log_likelihood = zip(*scores, strict=True)
        return torch.cat(log_prior, dim), torch.cat(log_likelihood, dim)
