"""Sampling of images, or of their unknown pixels, wavefront by wavefront."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vlae.distributions.emissions import Emission
from pyro_vlae.distributions.temperature import sample_at
from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.threads import single_threaded
from pyro_vlae.nn.wavefront import make_evaluator

# Up to this many images times features, matrix products are too small for several threads.
SMALL = 4096


@dataclass(frozen=True)
class Front:
    """Pixels whose values are chosen together, in one channel or all.

    Attributes:
        rows: ``(P,)``.
        columns: ``(P,)``.
        channels: ``slice(c, c + 1)`` if chosen channel by channel, else ``slice(None)``.
    """

    rows: Tensor
    columns: Tensor
    channels: slice

    def of(self, images: Tensor) -> Tensor:
        """These pixels and channels of images ``(N, C, H, W)``: ``(N, c, 1, P)``."""
        return images[:, self.channels, self.rows, self.columns].unsqueeze(2)


# Called with the distribution of the front's pixels, the pixels ``(N, C, 1, P)`` with all channels
# chosen so far, and the front; returns values ``(N, c, 1, P)``.
Choose = Callable[[Any, Tensor, Front], Tensor]
# Called with a front whose values are chosen; returns the image that replaces each, or None.
Select = Callable[[Front], Tensor | None]


def go_through(
    network: nn.Module,
    emission: Emission,
    context: Tensor | None,
    image: Tensor,
    choose: Choose,
    select: Select | None = None,
) -> Tensor:
    """Choose the values of images in place, each front given the fronts before it.

    Everything is computed in the precision of the images, even under `torch.autocast`.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`.
        emission: the distribution of pixels given their parameters.
        context: ``(N, K, H, W)`` or None.
        image: ``(N, C, H, W)``, overwritten.
        choose: returns the values of a front; `sample_front` samples them.
        select: returns indices ``(N,)`` of images with equal contexts that replace these images.
    """
    turns = [slice(None)]
    if getattr(network, "channel_autoregressive", False):
        turns = [slice(channel, channel + 1) for channel in range(image.shape[1])]
    if context is not None:
        context = context.to(image.dtype)
    with torch.autocast(image.device.type, enabled=False):
        evaluator = make_evaluator(network, context, len(image), *image.shape[-2:])
        small = evaluator.channels is not None and len(image) * evaluator.channels <= SMALL
        with single_threaded(small and not image.is_cuda):
            for rows, columns in evaluator:
                pixels = image.new_zeros(*image.shape[:2], 1, len(rows))
                for channels in turns:
                    distribution = emission(evaluator.parameters())
                    values = choose(distribution, pixels, Front(rows, columns, channels))
                    pixels[:, channels] = values
                    evaluator.write(values)
                image[:, :, rows, columns] = pixels.squeeze(2)
                index = None if select is None else select(Front(rows, columns, slice(None)))
                if index is not None:
                    image[:] = image[index]
                    evaluator.select(index)
    return image


def sample_front(
    distribution: Any, pixels: Tensor, front: Front, temperature: float = 1.0
) -> Tensor:
    """Sample the values of a front: all channels at once, or one given those before it."""
    if front.channels.start is None:
        values = sample_at(distribution, temperature)
        return values.movedim(-1, 1) if distribution.event_shape else values
    known = emission_layout(distribution, pixels)
    options = {} if temperature == 1 else {"temperature": temperature}
    return distribution.sample_channel(front.channels.start, known, **options).unsqueeze(1)


def keep_known(choose: Choose, image: Tensor, known: Tensor) -> Choose:
    """Return a function that keeps known values and chooses the others with ``choose``.

    Args:
        choose: see `go_through`.
        image: ``(N, C, H, W)``, a copy of the known values.
        known: ``(N, H, W)`` bool.
    """

    def chosen_or_known(distribution: Any, pixels: Tensor, front: Front) -> Tensor:
        values = choose(distribution, pixels, front)
        keep = known[:, None, None, front.rows, front.columns]
        return torch.where(keep, front.of(image), values)

    return chosen_or_known


def expand_mask(known: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Expand a mask of known pixels to ``shape = (*batch, H, W)``, on the device of the images.

    Raises:
        ValueError: the mask is not boolean or does not broadcast to this shape.
    """
    if not isinstance(known, Tensor):
        raise ValueError(
            f"known must be a bool tensor, got {type(known).__name__}: pass torch.as_tensor(known)"
        )
    if known.dtype != torch.bool:
        raise ValueError(f"known must be a bool tensor, got {known.dtype}: compare it, known > 0")
    try:
        return known.to(device).expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"known must be a mask (height, width) = {tuple(shape[-2:])}, or one for each image, "
            f"broadcastable to {tuple(shape)}; got shape {tuple(known.shape)} (a mask has no "
            "channel dimension)"
        ) from error


def emission_layout(distribution: Distribution, pixels: Tensor) -> Tensor:
    """Pixels ``(N, C, H, W)``, with channels last if they are the distribution's event."""
    return pixels.movedim(1, -1) if distribution.event_shape else pixels


def check_completable(window: frozenset[Offset] | None, known: Tensor) -> None:
    """Raise a ValueError unless no known pixel depends on an unknown one.

    In that case the exact conditional distribution is the product of the unknown pixels'
    conditionals; otherwise a known pixel would be evidence about unknown pixels before it.

    Args:
        window: offsets of the pixels that a pixel depends on; None for all earlier ones.
        known: ``(N, H, W)`` bool.
    """
    height, width = known.shape[-2:]
    if window is None:
        flat = known.flatten(1)
        unknown_before = (~flat).cumsum(1) > 0
        wrong = (flat & unknown_before).view(known.shape)
    else:
        wrong = torch.zeros_like(known)
        for i, j in window:
            if -i >= height or abs(j) >= width:
                continue
            rows, source_rows = slice(-i, height), slice(0, height + i)
            columns = slice(max(0, -j), width - max(0, j))
            source_columns = slice(max(0, j), width + min(0, j))
            wrong[:, rows, columns] |= (
                known[:, rows, columns] & ~known[:, source_rows, source_columns]
            )
    if wrong.any():
        _, row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"pixel ({row}, {column}) is known but depends on unknown pixels before it, so the "
            "exact conditional does not factorize. Known pixels may only have known ones in "
            "their window: any number of rows from the top, or any initial part of the raster "
            "order. For other patterns, sample many images and resample them by their likelihood"
        )
