"""The ELBO on held-out images, without side effects on training."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vlae.infer.distributed import rank, sum_over_ranks, world_size
from pyro_vlae.infer.particles import sample_codes, score_codes
from pyro_vlae.reproducible import derive_seed, evaluation_context


class ImageSource(Protocol):
    """The interface of a set of images for training and validation."""

    @property
    def images(self) -> Tensor:
        """The stored images; batches are on their device."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)``."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The images at ``index`` as floats ``(len(index), channels, height, width)``."""


@torch.no_grad()
def validate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    images: ImageSource,
    *,
    num_images: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Mean ELBO, rate, and distortion of shuffled images, one code each, in nats per image.

    Images and noise depend on the seed alone, so that the values of one run are comparable. In a
    process group of `torch.distributed`, all ranks must call this, and each takes a part. The
    global random generators, gradients, and the modules' modes are left unchanged.

    Args:
        model: as for `pyro_vlae.infer.marginal_log_likelihood`.
        guide: its guide.
        images: the held-out set.
        num_images: maximum number of images.
        batch_size: images per pass.
        seed: determines the choice of images and the noise.
        dtype: dtype of model and guide.

    Returns:
        ``elbo``, ``kl_nats`` (log q(z|x) - log p(z)) and ``distortion_nats`` (-log p(x|z)).

    Raises:
        ValueError: there are no images, num_images is less than 1, or a site lacks the image plate.
    """
    if len(images) == 0:
        raise ValueError("the validation set has no images")
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}, expected at least 1 image to validate on")
    device = images.images.device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator, device="cpu")
    order = order[:num_images].to(device)
    generator = torch.Generator(device=device).manual_seed(derive_seed(seed, 1))
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with evaluation_context(device, model, guide):
        for number, index in enumerate(order.split(batch_size)):
            x = images.batch(index, generator).to(dtype)  # on all ranks, for the generator's sake
            if number % world_size() != rank():
                continue
            codes, log_q, _ = sample_codes(guide, x, 1, derive_seed(seed, 2, number))
            log_prior, log_likelihood = score_codes(model, codes, x, 1)
            sums += torch.stack([(log_q - log_prior).sum(), -log_likelihood.sum()])
    sum_over_ranks([sums])
    rate, distortion = (sums / len(order)).tolist()
    return {"elbo": -(rate + distortion), "kl_nats": rate, "distortion_nats": distortion}
