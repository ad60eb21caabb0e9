"""A quick ELBO on held-out images, without disturbing training."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn

from pyro_vlae.reproducible import derive_seed


class ImageSource(Protocol):
    """What training and validation need of a set of images."""

    @property
    def images(self) -> Tensor:
        """The stored images; drawn ones are on the same device."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)``."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The images at ``index`` as floats ``(len(index), channels, height, width)``."""


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
    """Mean ELBO, rate and distortion over shuffled images, one code each, in nats per image.

    The images and all noise depend on the seed alone, so that figures of one run compare; the
    global random generators, gradients and the modules' train/eval modes are left as they were.

    Args:
        model: Pyro model of a batch of images ``(B, C, H, W)``.
        guide: its guide.
        images: the held-out set.
        num_images: how many to use at most.
        batch_size: how many at a time.
        seed: fixes the choice of images and the noise.
        dtype: of the images, that of model and guide.

    Returns:
        ``elbo``, ``kl_nats`` (log q(z|x) - log p(z)) and ``distortion_nats`` (-log p(x|z)).
    """
    device = images.images.device
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order[:num_images].to(device)
    generator = torch.Generator(device=device).manual_seed(derive_seed(seed, 1))
    rate = torch.zeros((), dtype=torch.float64, device=device)
    distortion = torch.zeros_like(rate)
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=cuda),
        pyro.validation_enabled(False),
        _evaluation_mode(model, guide),
    ):
        torch.manual_seed(derive_seed(seed, 2))
        for index in order.split(batch_size):
            x = images.batch(index, generator).to(dtype)
            trace, guide_trace = get_importance_trace("flat", math.inf, model, guide, (x,), {})
            for site in guide_trace.nodes.values():
                if site["type"] == "sample":
                    rate += site["log_prob_sum"]
            for site in trace.nodes.values():
                if site["type"] == "sample" and site["is_observed"]:
                    distortion -= site["log_prob_sum"]
                elif site["type"] == "sample":
                    rate -= site["log_prob_sum"]
    kl, nll = (torch.stack([rate, distortion]) / len(order)).tolist()
    return {"elbo": -(kl + nll), "kl_nats": kl, "distortion_nats": nll}


@contextmanager
def _evaluation_mode(*parts: Callable[..., Any]) -> Iterator[None]:
    modules = [part for part in parts if isinstance(part, nn.Module)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
