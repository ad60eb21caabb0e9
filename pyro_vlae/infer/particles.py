"""Codes drawn by a guide and scored under a model: the raw material of importance sampling."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vlae.reproducible import derive_seed, set_seed

# Activations of this many codes still fit the cache of a CPU; larger batches run no faster there.
_CPU_CODES = 256
# Enough to fill any GPU; a larger batch only costs memory.
_CUDA_CODES = 16384
_TRIAL_CODES = 64
PARTICLES = "_importance_particles"
# Workspace that a decoder may take per data dimension: a guess on the safe side, for small hosts.
_CPU_BYTES_PER_DIM = 4096


@dataclass(frozen=True, eq=False)
class ScoredCodes:
    """K codes for each of b images that follow each other, float64 nats on the images' device.

    Attributes:
        images: where the images stand among all.
        codes: values ``(K, b, *event)`` by latent site.
        log_q: log q(z | x), ``(K, b)``, as are the others.
        log_prior: log p(z).
        log_likelihood: log p(x | z), NaN outside the support.
    """

    images: slice
    codes: dict[str, Tensor]
    log_q: Tensor
    log_prior: Tensor
    log_likelihood: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Return log p(x, z) - log q(z | x)."""
        return self.log_prior + self.log_likelihood - self.log_q

    def of_image(self, position: int) -> "ScoredCodes":
        """The block of the image at ``position`` alone."""
        start, at = self.images.start + position, slice(position, position + 1)
        return ScoredCodes(
            slice(start, start + 1),
            {name: value[:, at] for name, value in self.codes.items()},
            self.log_q[:, at],
            self.log_prior[:, at],
            self.log_likelihood[:, at],
        )


def scored_codes(
    model: Callable,
    guide: Callable,
    x: Tensor,
    num_samples: int,
    seed: int,
    index: list[int],
    max_codes_per_chunk: int | None,
) -> Iterator[ScoredCodes]:
    """Draw and score codes of all images, block by block; arguments as `marginal_log_likelihood`.

    To be run to its end inside `evaluation_context` and without gradients.
    """
    codes, _ = draw_codes(guide, x[:1], num_samples, derive_seed(seed, index[0]))
    num_samples = num_samples if codes else 1
    scorer = Scorer(model, max_codes_per_chunk or chunk_size(model, codes, x))
    start = 0
    while start < len(x):
        stop = min(len(x), start + max(1, scorer.max_codes // num_samples))
        draws = [
            draw_codes(guide, x[i : i + 1], num_samples, derive_seed(seed, index[i]))
            for i in range(start, stop)
        ]
        codes = {name: torch.cat([c[name] for c, _ in draws], 1) for name in draws[0][0]}
        log_q = torch.cat([q for _, q in draws], 1)
        yield ScoredCodes(
            slice(start, stop), codes, log_q, *scorer(codes, x[start:stop], num_samples)
        )
        start = stop


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Names and sites of the trace, without plates."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site


def site_log_prob(name: str, site: Any, shape: tuple[int, int], role: str) -> Tensor:
    """Log-probability of a site in float64, ``(particles, images)``."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    log_prob = scale_and_mask(log_prob, mask=site["mask"])
    plates = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    fits = log_prob.ndim <= 2 and all(
        have in (1, want)
        for have, want in zip(reversed(log_prob.shape), reversed(shape), strict=False)
    )
    if plates.get(-1) != shape[1] or not fits:
        raise ValueError(
            f"the {role}'s site {name!r} has log_prob of shape {tuple(log_prob.shape)} and "
            f"{f'an image plate of size {plates[-1]}' if -1 in plates else 'no image plate'}; "
            f"expected (particles, images) = {shape}. Sample it inside "
            "`with pyro.plate('images', len(x), dim=-1):` and move all other dimensions into the "
            "event with `.to_event(...)`"
        )
    return log_prob.double().expand(shape)


def draw_codes(
    guide: Callable, image: Tensor, num_samples: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw the codes of one image: values ``(K, 1, *event)`` by site, and log q ``(K, 1)``."""
    set_seed(seed, image.device)
    trace = poutine.trace(pyro.plate(PARTICLES, num_samples, dim=-2)(guide)).get_trace(image)
    shape = (num_samples, 1)
    log_q = torch.zeros(shape, dtype=torch.float64, device=image.device)
    codes, auxiliary, random = {}, [], []
    for name, site in sample_sites(trace):
        # From this very trace: a flow inverts only the value that it has just made.
        log_q = log_q + site_log_prob(name, site, shape, "guide")
        if site["infer"].get("is_auxiliary"):
            auxiliary.append(name)
            continue
        codes[name] = site["value"].expand(shape + site["fn"].event_shape)
        if not isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta):
            random.append(name)
    if auxiliary and random:
        # Codes that are functions of it (Delta sites, as Pyro's autoguides have) are fine.
        raise ValueError(
            f"the guide's site {auxiliary[0]!r} is auxiliary and {random[0]!r} is drawn given it: "
            f"log q(z | x) would need it integrated out. Sample {auxiliary[0]!r} in the model, too "
            "(from any density given x and the codes), and leave is_auxiliary out"
        )
    return codes, log_q


class Scorer:
    """Scores codes of several images under the model, at most ``max_codes`` in one pass."""

    def __init__(self, model: Callable, max_codes: int) -> None:
        self.model = model
        self.max_codes = max_codes

    def __call__(
        self, codes: dict[str, Tensor], images: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x | z), both ``(count, len(images))``.

        ``codes`` are ``(count, len(images), *event)`` by site. Where the GPU runs out of memory,
        ``max_codes`` is halved, for later calls too.
        """
        if count * len(images) <= self.max_codes:
            try:
                return log_joint(self.model, codes, images, count)
            except torch.OutOfMemoryError:
                if count * len(images) == 1:
                    raise
            # Outside the handler, whose traceback would keep the memory.
            self.max_codes = count * len(images) // 2
            if images.is_cuda:
                torch.cuda.empty_cache()
        return self._split(codes, images, count)

    def _split(self, codes: dict[str, Tensor], images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Score in even parts, cut by codes, or by images where one code of each is too much."""
        dim = 0 if len(images) <= self.max_codes and count > 1 else 1
        size, other = (count, len(images)) if dim == 0 else (len(images), count)
        edges = np.linspace(0, size, 1 + math.ceil(size / max(1, self.max_codes // other)))
        bounds = edges.round().astype(int).tolist()
        parts = []
        for a, b in pairwise(bounds):
            part = {name: value.narrow(dim, a, b - a) for name, value in codes.items()}
            parts.append(self(part, images, b - a) if dim == 0 else self(part, images[a:b], count))
        log_prior, log_likelihood = zip(*parts, strict=True)
        return torch.cat(log_prior, dim), torch.cat(log_likelihood, dim)


def log_joint(
    model: Callable, codes: dict[str, Tensor], images: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return log p(z) and log p(x | z) from one pass; the latter is NaN outside the support."""
    program = poutine.condition(pyro.plate(PARTICLES, count, dim=-2)(model), data=codes)
    trace = poutine.trace(program).get_trace(images)
    shape = (count, len(images))
    zeros = torch.zeros(shape, dtype=torch.float64, device=images.device)
    log_prior, log_likelihood, observed = zeros, zeros, False
    for name, site in sample_sites(trace):
        log_prob = site_log_prob(name, site, shape, "model")
        if name in codes:
            log_prior = log_prior + log_prob
        elif site["is_observed"]:
            with contextlib.suppress(NotImplementedError):  # not every distribution knows it
                inside = site["fn"].support.check(site["value"])
                log_prob = torch.where(inside, log_prob, math.nan)
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


def chunk_size(model: Callable, codes: dict[str, Tensor], x: Tensor) -> int:
    """Codes per pass that memory allows, given the codes of the first image."""
    if not x.is_cuda:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # only POSIX tells, and not all of it
            return _CPU_CODES
        return max(1, min(_CPU_CODES, free // (2 * _CPU_BYTES_PER_DIM * x[0].numel())))
    trial = {name: value[:_TRIAL_CODES] for name, value in codes.items()}
    count = len(next(iter(trial.values()))) if trial else 1
    before = torch.cuda.memory_allocated(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    Scorer(model, count)(trial, x[:1], count)
    per_code = max(1, (torch.cuda.max_memory_allocated(x.device) - before) // count)
    cached = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    free = torch.cuda.mem_get_info(x.device)[0] + cached
    return max(1, min(_CUDA_CODES, free // (2 * per_code)))
