"""Importance-sampled log-likelihoods, image by image, for any Pyro model and guide."""

import contextlib
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vlae.infer.weights import MarginalLikelihood, PendingWeights
from pyro_vlae.nn import without_initialization

# Activations of this many codes still fit the cache of a CPU; larger batches run no faster there.
_CPU_CODES = 256
# Enough to fill any GPU; a larger batch only costs memory.
_CUDA_CODES = 16384
_TRIAL_CODES = 64
_PARTICLES = "_importance_particles"
# Workspace that a decoder may take per data dimension: a guess on the safe side, for small hosts.
_CPU_BYTES_PER_DIM = 4096


@torch.no_grad()
def marginal_log_likelihood(
    model: Callable,
    guide: Callable,
    x: Tensor,
    num_samples: int = 4096,
    *,
    seed: int = 0,
    image_index: Sequence[int] | Tensor | None = None,
    max_codes_per_chunk: int | None = None,
    progress: bool = False,
) -> MarginalLikelihood:
    r"""Estimate log p(x) of each image by importance sampling with the guide as the proposal.

    The codes of an image are one guide draw under generators seeded by ``seed`` and the image's
    index; only the scoring is cut into chunks. So the draws depend neither on the chunk size nor on
    which other images are scored, and log-probabilities only to rounding. Scales
    (``poutine.scale``) are ignored, since they are no part of the density; masks count.

    Modules among ``model`` and ``guide`` are scored in evaluation mode. Random state, validation,
    training mode, parameter store and layers not yet initialised are left as they were.

    Args:
        model: Called as ``model(x)``, observes ``x``; any number of latent sites, all in an image
            plate ``pyro.plate(name, len(x), dim=-1)`` and without a plate at ``dim=-2``.
        guide: Called as ``guide(x)``, samples the model's latent sites in such a plate.
        x: Images, ``(N, *event)``; model and guide must live on its device.
        num_samples: Codes K per image; a model without a code (its guide samples nothing) is
            scored once, exactly.
        seed: Seed of the draws.
        image_index: Index of each image within its data set, ``(N,)``, so that a subset meets the
            draws that it meets in the whole set; ``0..N-1`` when omitted.
        max_codes_per_chunk: Codes to score in one pass. When omitted, what half of the free GPU
            memory holds by a trial, or some hundreds on a CPU. Halved where memory runs out.
        progress: Show a progress bar.

    Raises:
        ValueError: If an argument is out of range, ``x`` is empty or not finite, a site lacks the
            image plate or its match in model or guide, or a log-weight is not finite.

    References:
        Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*, 2016, arXiv 1509.00519;
        Vehtari et al., *Pareto Smoothed Importance Sampling*, 2024, arXiv 1507.02646.
    """
    index = _check_arguments(x, num_samples, image_index, max_codes_per_chunk)
    columns: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(torch.random.fork_rng(devices=[x.device] if x.is_cuda else []))
        stack.enter_context(_undisturbed(model, guide))
        interval = 0.1 if sys.stderr.isatty() else 10  # a log file needs fewer lines
        bar = stack.enter_context(
            tqdm(total=len(x), unit="image", disable=not progress, mininterval=interval)
        )
        codes, _ = _draw(guide, x[:1], num_samples, _mix(seed, index[0]))
        num_samples = num_samples if codes else 1
        scorer = _Scorer(model, max_codes_per_chunk or _chunk_size(model, codes, x))
        start, waiting = 0, None
        while start < len(x):
            stop = min(len(x), start + max(1, scorer.max_codes // num_samples))
            draws = [
                _draw(guide, x[i : i + 1], num_samples, _mix(seed, index[i]))
                for i in range(start, stop)
            ]
            codes = {name: torch.cat([c[name] for c, _ in draws], 1) for name in draws[0][0]}
            log_q = torch.cat([q for _, q in draws], 1)
            log_prior, log_likelihood = scorer(codes, x[start:stop], num_samples)
            log_w = log_prior + log_likelihood - log_q
            block = PendingWeights(log_w, log_q - log_prior, index[start:stop])
            # The GPU works on this block while the host looks at the one before.
            columns += [waiting.statistics()] if waiting is not None else []
            waiting = block
            bar.update(stop - start)
            start = stop
        assert waiting is not None  # x is not empty
        columns.append(waiting.statistics())
    names = [field.name for field in fields(MarginalLikelihood)][:-2]
    estimates = dict(zip(names, torch.cat(columns, 1), strict=True))
    if not codes:
        estimates["monte_carlo_error"] = torch.zeros_like(estimates["log_prob"])
    return MarginalLikelihood(**estimates, num_samples=num_samples, data_dims=x[0].numel())


def _check_arguments(
    x: Tensor,
    num_samples: int,
    image_index: Sequence[int] | Tensor | None,
    max_codes_per_chunk: int | None,
) -> list[int]:
    """Return the image indices as a list, or say which argument is wrong."""
    if not isinstance(x, Tensor) or x.ndim == 0 or x.numel() == 0:
        what = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"x has {what}, expected a tensor (N, *event) with at least one image")
    finite = torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else torch.isfinite(x)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"x holds NaN or infinity in {len(bad)} of {len(x)} images (first: x[{bad[0]}]); "
            "leave these images out"
        )
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1 code per image")
    if max_codes_per_chunk is not None and max_codes_per_chunk < 1:
        raise ValueError(f"max_codes_per_chunk is {max_codes_per_chunk}, expected at least 1")
    if image_index is None:
        return list(range(len(x)))
    index = [int(i) for i in torch.as_tensor(image_index).tolist()]
    if len(index) != len(x):
        raise ValueError(f"image_index has {len(index)} entries, expected one per image: {len(x)}")
    return index


def _mix(seed: int, image: int) -> int:
    """Hash seed and image index to 64 bits: neighbouring seeds and images share no draws."""
    digest = hashlib.blake2b(f"{seed},{image}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@contextlib.contextmanager
def _undisturbed(*programs: Callable) -> Iterator[None]:
    """Set modules to evaluation mode for a while, and drop parameters registered meanwhile.

    Layers that wait for their data-dependent initialisation are left waiting. Convolutions on a GPU
    run in full float32: TF32 rounds differently from one chunk size to the next.
    """
    modules = [m for p in programs if isinstance(p, nn.Module) for m in p.modules()]
    training = [module.training for module in modules]
    store = pyro.get_param_store()
    known = set(store.keys())
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        for module in modules:
            module.training = False
        torch.backends.cudnn.allow_tf32 = False
        with without_initialization():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
        for name in set(store.keys()) - known:
            del store[name]


def _sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site


def _log_prob(name: str, site: Any, shape: tuple[int, int], role: str) -> Tensor:
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


def _draw(
    guide: Callable, image: Tensor, num_samples: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw the codes of one image: values ``(K, 1, *event)`` by site, and log q ``(K, 1)``."""
    # Not torch.manual_seed, which would reseed the other GPUs too.
    torch.default_generator.manual_seed(seed)
    if image.is_cuda:
        with torch.cuda.device(image.device):
            torch.cuda.manual_seed(seed)
    trace = poutine.trace(pyro.plate(_PARTICLES, num_samples, dim=-2)(guide)).get_trace(image)
    shape = (num_samples, 1)
    log_q = torch.zeros(shape, dtype=torch.float64, device=image.device)
    codes = {}
    for name, site in _sample_sites(trace):
        # From this very trace: a flow inverts only the value that it has just made.
        log_q = log_q + _log_prob(name, site, shape, "guide")
        if not site["infer"].get("is_auxiliary"):
            codes[name] = site["value"].expand(shape + site["fn"].event_shape)
    return codes, log_q


class _Scorer:
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
                return _log_joint(self.model, codes, images, count)
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


def _log_joint(
    model: Callable, codes: dict[str, Tensor], images: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return log p(z) and log p(x | z) from one pass; the latter is NaN outside the support."""
    program = poutine.condition(pyro.plate(_PARTICLES, count, dim=-2)(model), data=codes)
    trace = poutine.trace(program).get_trace(images)
    shape = (count, len(images))
    zeros = torch.zeros(shape, dtype=torch.float64, device=images.device)
    log_prior, log_likelihood, observed = zeros, zeros, False
    for name, site in _sample_sites(trace):
        log_prob = _log_prob(name, site, shape, "model")
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


def _chunk_size(model: Callable, codes: dict[str, Tensor], x: Tensor) -> int:
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
    _Scorer(model, count)(trial, x[:1], count)
    per_code = max(1, (torch.cuda.max_memory_allocated(x.device) - before) // count)
    cached = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    free = torch.cuda.mem_get_info(x.device)[0] + cached
    return max(1, min(_CUDA_CODES, free // (2 * per_code)))
