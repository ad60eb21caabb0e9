"""What a code decides: images along paths between codes, and images that lose their code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vlae.plots.pictures import as_pictures, canvas, place, to_unit_range
from pyro_vlae.reproducible import evaluation_context, set_seed


@torch.no_grad()
def interpolate_codes(
    prior: dist.TorchDistribution, start: Tensor, end: Tensor, steps: int
) -> Tensor:
    """Codes between two codes, along the arc between the noise that a flow prior makes them of.

    A straight line between two codes leaves where a prior puts its mass: in many dimensions
    Gaussian noise lies near a sphere. So both codes are brought to noise, the noise is turned from
    the one to the other, its length changed evenly, and brought back.

    Args:
        prior: a standard normal, or a flow of one, as `StandardNormalPrior` and `FlowPrior` give.
        start: ``(*batch, code_dim)``.
        end: likewise.
        steps: number of codes, both ends included.

    Returns:
        ``(steps, *batch, code_dim)``.

    Raises:
        ValueError: the prior is not made of a standard normal.

    References:
        White, "Sampling Generative Networks", 2016, arXiv:1609.04468 (spherical interpolation).
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
            f"paths are for priors made of standard normal noise, got {type(base).__name__}: use "
            "StandardNormalPrior or FlowPrior, or torch.lerp between the codes"
        )
    ends = []
    for noise in (start, end):
        for transform in reversed(transforms):
            noise = transform.inv(noise)
        ends.append(noise)
    lengths = [noise.norm(dim=-1, keepdim=True) for noise in ends]
    first, last = (noise / length for noise, length in zip(ends, lengths, strict=True))
    angle = (first * last).sum(-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
    share = share.view(-1, *[1] * start.dim())
    path = (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / angle.sin()
    codes = path * (lengths[0] + share * (lengths[1] - lengths[0]))
    for transform in transforms:
        codes = transform(codes)
    return codes


@torch.no_grad()
def draw_interpolations(
    model: Any, guide: Callable[..., Any], x: Tensor, steps: int = 9, seed: int = 0
) -> Tensor:
    """Images drawn from codes between the codes of pairs of images.

    Args:
        model: a VLAE.
        guide: its guide.
        x: images ``(2 N, C, H, W)``: the first N are the starts, the others the ends.
        steps: images per path.
        seed: of the codes, and of the pixels: every image of a path is drawn from the same
            uniforms, so that neighbors differ by their codes only.

    Returns:
        ``(steps, N, C, H, W)``.
    """
    with evaluation_context(x.device, model, guide):
        set_seed(seed, x.device)
        z: Any = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        start, end = z.chunk(2)
        path = interpolate_codes(model.prior(), start, end, steps)
        images = []
        for codes in path:
            set_seed(seed, x.device)
            images.append(model.likelihood(model.decoder(codes)).sample())
    return torch.stack(images)


def plot_interpolations(x: Tensor, path: Tensor, title: str | None = None) -> Figure:
    """Draw paths row by row, between the two images that they lead from and to.

    Args:
        x: images ``(2 N, C, H, W)``, as given to `draw_interpolations`.
        path: its result, ``(steps, N, C, H, W)``.
        title: heading of the figure.
    """
    path = to_unit_range(path)
    starts, ends = to_unit_range(x).chunk(2)
    gap = 0.35
    rows, width = len(starts), len(path) + 2 + 2 * gap
    figure, axes = canvas(width, rows, as_pictures(starts, "x"), title, heads=0.25)
    ratio = x.shape[-2] / x.shape[-1]
    columns = [(0.0, starts, "from"), (1 + 2 * gap + len(path), ends, "to")]
    columns += [(1 + gap + k, images, "") for k, images in enumerate(path)]
    for left, images, head in columns:
        place(axes, as_pictures(images, "path"), [(left, float(row)) for row in range(rows)])
        axes.text(left + 0.5, -0.06 * ratio, head, ha="center", va="bottom", fontsize=8)
    middle = 1 + gap + len(path) / 2
    head = "drawn from codes on the way, all with the same uniforms"
    axes.text(middle, -0.06 * ratio, head, ha="center", va="bottom", fontsize=8)
    return figure


@dataclass(frozen=True)
class CodeSwap:
    """Images whose code was replaced by one that the prior drew.

    Attributes:
        x: the images, ``(N, C, H, W)``.
        own: drawn from their own code, the upper half given.
        swapped: drawn from the prior's code, the upper half given.
        prior: drawn from the prior's code, nothing given.
        lost: ``log p(x_i | own code) - log p(x_i | prior's code)`` of every pixel given those
            before it, ``(N, H, W)`` nats.
    """

    x: Tensor
    own: Tensor
    swapped: Tensor
    prior: Tensor
    lost: Tensor


@torch.no_grad()
def swap_codes(model: Any, guide: Callable[..., Any], x: Tensor, seed: int = 0) -> CodeSwap:
    """Replace the codes of images by draws of the prior, and see what becomes of the images.

    Args:
        model: a VLAE with a `PixelCNN` likelihood.
        guide: its guide.
        x: images ``(N, C, H, W)``.
        seed: of all that is drawn.

    Raises:
        ValueError: the likelihood is not a `PixelCNN`.
    """
    with evaluation_context(x.device, model, guide):
        set_seed(seed, x.device)
        z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        own = model.likelihood(model.decoder(z))
        other = model.likelihood(model.decoder(model.prior().sample(x.shape[:1])))
        if not hasattr(own, "complete"):
            raise ValueError(
                f"the likelihood is a {type(own).__name__}, whose pixels do not depend on each "
                "other: images are completed by a PixelCNN"
            )
        height = x.shape[-2]
        known = (torch.arange(height, device=x.device) < height // 2).unsqueeze(1)
        known = known.expand(x.shape[-2:])
        return CodeSwap(
            x=x,
            own=own.complete(x, known),
            swapped=other.complete(x, known),
            prior=other.sample(),
            lost=own.pixel_log_prob(x) - other.pixel_log_prob(x),
        )


def plot_code_swap(swap: CodeSwap, title: str | None = None) -> Figure:
    """Draw what becomes of images that lose their code, a column for each image.

    Args:
        swap: what `swap_codes` returned.
        title: heading of the figure.
    """
    x = as_pictures(to_unit_range(swap.x), "x")
    lost = swap.lost.detach().cpu().double().numpy()
    # Red: the own code explains the pixel better; blue: the other does.
    shade = np.clip(lost / np.quantile(np.abs(lost), 0.995).clip(1e-12), -1, 1)[..., None]
    red, blue = np.array([0.8, 0.2, 0.07]), np.array([0.27, 0.47, 0.67])
    color = np.where(shade > 0, red, blue)
    maps = 1 - np.abs(shade) * (1 - color)
    rows = [
        ("image", x),
        ("lower half redrawn, own code", as_pictures(to_unit_range(swap.own), "own")),
        ("lower half redrawn, a prior's code", as_pictures(to_unit_range(swap.swapped), "swapped")),
        ("all drawn, the same prior's code", as_pictures(to_unit_range(swap.prior), "prior")),
        ("nats lost (red) or won (blue)", maps),
    ]
    margin = 2.9
    figure, axes = canvas(len(x) + margin, len(rows), x, title)
    ratio = x.shape[1] / x.shape[2]
    for row, (name, pictures) in enumerate(rows):
        place(axes, pictures, [(margin + n, float(row)) for n in range(len(x))])
        axes.text(margin - 0.15, (row + 0.5) * ratio, name, ha="right", va="center", fontsize=8)
    for n, nats in enumerate(lost.sum((1, 2))):
        y = len(rows) * ratio
        axes.text(
            margin + n + 0.5,
            y,
            f"{nats:.0f} nats".replace("-", "−"),
            ha="center",
            va="top",
            fontsize=7,
        )
    return figure
