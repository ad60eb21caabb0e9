"""Importance-sampled log-likelihoods of images, for any Pyro model and guide."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vlae.infer.distributed import rank, sum_over_ranks, world_size
from pyro_vlae.infer.images import check_images
from pyro_vlae.infer.partial import PartialScores, file_of_rank, fingerprint
from pyro_vlae.infer.particles import ImportanceSamples, default_chunk, importance_samples
from pyro_vlae.infer.weights import PER_IMAGE, MarginalLikelihood, weight_statistics
from pyro_vlae.reproducible import evaluation_context


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
    resume_file: str | Path | None = None,
) -> MarginalLikelihood:
    r"""Estimate log p(x) of each image by importance sampling with the guide as the proposal.

    The codes of an image are sampled in one call of the guide, with a seed derived from ``seed``
    and the image's index. They depend neither on the chunk size nor on the other images, so these
    affect the log-probabilities only by rounding. A guide with parameters for each image, such as
    `AutoNormal`, is called once with all images, because it cannot be called with fewer. Masks are
    applied; scales (``poutine.scale``) are ignored, since they are not part of the density. Factors
    (``pyro.factor``) count as part of the likelihood in the model, and of log q in the guide.

    In a process group of `torch.distributed`, all ranks must call this: each scores a part of the
    images, and all return the scores of all images.

    Modules are scored in evaluation mode. Random state, validation, training mode, parameter store,
    and uninitialized layers are left unchanged.

    Args:
        model: called as ``model(x)``, observes ``x``; any number of latent sites, all in an image
            plate ``pyro.plate(name, len(x), dim=-1)`` and without a plate at ``dim=-2``.
        guide: called as ``guide(x)``, samples the model's latent sites in such a plate.
        x: images, ``(N, *event)``; model and guide must be on its device.
        num_samples: codes K per image; a model without a code (its guide samples nothing) is
            scored once, exactly.
        seed: seed of the codes.
        image_index: index of each image in its data set, ``(N,)``, so that an image of a subset
            gets the same codes as in the whole set; ``0..N-1`` if None.
        max_codes_per_chunk: codes to score in one pass, by default 256 on a CPU and 4096 on a GPU;
            halved if memory runs out.
        progress: show a progress bar.
        resume_file: file in which the estimates of finished images are kept, every few seconds and
            on errors and Ctrl-C. A later call, even in another process, with the same modules,
            images, and arguments goes on from there, and returns bitwise the same result as one
            that was not interrupted. Modules are compared by their classes, parameters, buffers,
            and public attributes; programs and attributes that are functions are refused, since
            their code cannot be compared. The file is not removed. Each of several ranks has its
            own file, with its number in the name.

    Raises:
        OSError: ``resume_file`` cannot be written when the first images are finished; if it fails
            later, there is only a warning.
        ValueError: an argument is out of range, ``x`` is empty or not finite, a site lacks the
            image plate or its counterpart in model or guide, the guide's code is a point estimate,
            a log-weight is not finite, or ``resume_file`` is given and a program is not a module or
            holds a function.

    References:
        Burda et al., "Importance Weighted Autoencoders", 2016, arXiv:1509.00519.
        Vehtari et al., "Pareto Smoothed Importance Sampling", 2024, arXiv:1507.02646.
    """
    index = check_arguments(x, num_samples, image_index, max_codes_per_chunk)
    part = slice(rank(), None, world_size())
    chunk = max_codes_per_chunk or default_chunk(x.device)
    done = PartialScores(None, "", len(PER_IMAGE))
    if resume_file is not None:
        settings = num_samples, seed, index, chunk, x.device.type, rank(), world_size()
        own = fingerprint((model, guide), (x,), *settings)
        done = PartialScores(file_of_rank(Path(resume_file)), own, len(PER_IMAGE))
    with evaluation_context(x.device, model, guide):
        blocks = importance_samples(
            model, guide, x, num_samples, seed, index, chunk, done.count, part
        )
        numbered = ((block, index[part][block.images]) for block in blocks)
        estimates, num_samples = gather_estimates(numbered, done, len(x), x.device, progress)
    return MarginalLikelihood(**estimates, num_samples=num_samples, data_dims=x[0].numel())


def gather_estimates(
    blocks: Iterable[tuple[ImportanceSamples, list[int]]],
    done: PartialScores,
    total: int,
    device: torch.device,
    progress: bool,
    unit: str = "image",
) -> tuple[dict[str, Tensor], int]:
    """Turn importance samples into estimates, save them, and exchange them among the ranks.

    Rank r of W scores the images r, r + W, r + 2 W, ...

    Args:
        blocks: the samples of this rank's images that are not done, in order, and the images'
            indices in the data set.
        done: the estimates of this rank so far; saved at the end, and on errors and Ctrl-C.
        total: number of images of all ranks.
        device: where the ranks exchange tensors.
        progress: show a progress bar.
        unit: what the progress bar counts.

    Returns:
        The estimates of all images ``(total,)`` by name, and the number of samples of each.
    """
    part = slice(rank(), None, world_size())
    count = len(range(total)[part])
    interval = 0.1 if sys.stderr.isatty() else 10  # fewer lines in a log file
    sizes = {"total": count, "initial": done.count, "unit": unit}
    bar = tqdm(**sizes, disable=not progress or rank() > 0, mininterval=interval)
    try:
        with bar:
            for block, numbers in blocks:
                statistics = weight_statistics(block.log_weight, block.log_ratio, numbers)
                if not block.codes:  # exact
                    statistics[PER_IMAGE.index("monte_carlo_error")] = 0.0
                done.add(statistics, len(block.log_weight))
                bar.update(len(numbers))
    finally:
        done.save()
    scores = torch.zeros(len(PER_IMAGE), total, dtype=torch.float64, device="cpu")
    if done.columns:
        scores[:, part] = torch.cat(done.columns, 1)
    counts = torch.tensor(done.num_samples, device="cpu")
    sum_over_ranks([scores := scores.to(device), counts])
    estimates = dict(zip(PER_IMAGE, scores.cpu(), strict=True))
    # A rank without images has counted no samples.
    return estimates, int(counts) // min(world_size(), total)


def check_arguments(
    x: Tensor,
    num_samples: int,
    image_index: Sequence[int] | Tensor | None,
    max_codes_per_chunk: int | None,
) -> list[int]:
    """Return the image indices as a list; raise a ValueError if an argument is invalid."""
    check_images(x, "x")
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected (N, *event) with at least one image"
        )
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ValueError(
            f"num_samples is {num_samples}, expected a whole number of at least 1 code per image"
        )
    if max_codes_per_chunk is not None and max_codes_per_chunk < 1:
        raise ValueError(f"max_codes_per_chunk is {max_codes_per_chunk}, expected at least 1")
    if image_index is None:
        return list(range(len(x)))
    index = torch.as_tensor(image_index)
    if index.shape != (len(x),):
        raise ValueError(
            f"image_index has shape {tuple(index.shape)}, expected one entry per image: ({len(x)},)"
        )
    return [int(i) for i in index.tolist()]
