"""Measuring which pixels of its window a PixelCNN uses."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.reproducible import evaluation_context

_IMAGES_PER_PASS = 256


@dataclass(frozen=True, eq=False)
class PixelInfluence:
    """How much a pixel's log-odds change when an earlier pixel flips, by the offset between them.

    Attributes:
        change: ``(R + 1, 2 C + 1)``, float64: mean absolute change of the log-odds of a pixel when
            the pixel at offset (r - R, c - C) from it flips; NaN if no pixels have this offset.
        window: offsets (rows, columns) of the pixels that the network can see; None if unknown.
    """

    change: Tensor
    window: frozenset[tuple[int, int]] | None

    @property
    def reach(self) -> tuple[int, int]:
        """R and C: rows above and columns to either side."""
        rows, columns = self.change.shape
        return rows - 1, columns // 2


@torch.no_grad()
def pixel_influence(
    likelihood: PixelCNN, images: Tensor, flips: int = 32, seed: int = 0
) -> PixelInfluence:
    """Measure how much flips of single pixels change the log-odds of later pixels.

    The pixels to flip are chosen with probability proportional to their Bernoulli variance
    p (1 - p), that is, among those that could well have had the other value. Other flips, such as a
    dot of ink far from any stroke, result in images unlike any in the training data and would
    dominate the mean.

    Offsets extend one pixel beyond the network's window, where the change must be 0, or over the
    whole image if the window is unknown.

    Args:
        likelihood: of binary images with one channel, batch shape ``(N,)``, such as
            ``model.likelihood(model.decoder(z))``; or ``()``, a PixelCNN without a context.
        images: ``(N, 1, H, W)``, 0 and 1, on the likelihood's device.
        flips: pixels to flip in each image.
        seed: seed for choosing these pixels.

    Raises:
        ValueError: the likelihood is not a PixelCNN of binary images with one channel, the shapes
            do not fit, or flips is not between 1 and the number of pixels.
    """
    _check(likelihood, images, flips)
    network, (height, width) = likelihood.network, images.shape[-2:]
    window = likelihood.window
    reach = (height - 1, width - 1)
    if window is not None:
        rows, columns = (max((abs(at[axis]) for at in window), default=0) for axis in (0, 1))
        reach = (min(height, rows + 2) - 1, min(width, columns + 2) - 1)
    generator = torch.Generator().manual_seed(seed)
    shape = reach[0] + 1, 2 * reach[1] + 1
    total = torch.zeros(shape, dtype=torch.float64, device="cpu")
    pairs = torch.zeros_like(total)
    with evaluation_context(images.device, network):
        for n, image in enumerate(images):
            context = None if likelihood.context is None else likelihood.context[n : n + 1]
            logits = network(image[None], context)
            log_odds = logits.flatten().double().cpu()
            variance = torch.sigmoid(log_odds) * torch.sigmoid(-log_odds)
            chosen = torch.multinomial(variance, flips, generator=generator)
            for part in chosen.split(_IMAGES_PER_PASS):
                flipped = image.flatten().repeat(len(part), 1)
                at = (torch.arange(len(part), device=part.device), part)
                flipped[at] = 1 - flipped[at]
                contexts = None if context is None else context.expand(len(part), -1, -1, -1)
                after = network(flipped.view(-1, *image.shape), contexts)
                changes = (after - logits).abs().squeeze(1).double().cpu()
                for change, position in zip(changes, part.tolist(), strict=True):
                    total += _by_offset(change, position, reach)
                    pairs += _by_offset(torch.ones_like(change), position, reach)
    return PixelInfluence(total / pairs, window)  # 0 / 0 where there are no pairs


def _by_offset(values: Tensor, position: int, reach: tuple[int, int]) -> Tensor:
    """Values of the pixels from which a position has each offset; 0 outside the image."""
    row, column = divmod(position, values.shape[1])
    rows, columns = reach
    padded = F.pad(values, (columns, columns, 0, rows))
    return padded[row : row + rows + 1, column : column + 2 * columns + 1].flip(0, 1)


def _check(likelihood: PixelCNN, images: Tensor, flips: int) -> None:
    if not isinstance(likelihood, PixelCNN):
        raise ValueError(
            f"the likelihood is a {type(likelihood).__name__}, expected a PixelCNN: in others, "
            "pixels do not depend on each other"
        )
    shape = (*(likelihood.batch_shape or images.shape[:1]), *likelihood.event_shape)
    if likelihood.event_shape[0] != 1:
        raise ValueError(
            f"expected a likelihood of binary images with one channel, got one with "
            f"{likelihood.event_shape[0]}: the influence of pixels is not defined for color"
        )
    if images.shape != shape or not len(images):
        raise ValueError(
            f"images have shape {tuple(images.shape)}, expected (N, 1, H, W), one for each of the "
            f"likelihood's contexts (batch_shape {tuple(likelihood.batch_shape)})"
        )
    pixel = getattr(likelihood.support, "base_constraint", None)
    if pixel is not constraints.boolean or not ((images == 0) | (images == 1)).all():
        raise ValueError("expected a likelihood of binary images, and images of zeros and ones")
    if not 1 <= flips <= images[0].numel():
        raise ValueError(f"flips is {flips}, expected 1 to {images[0].numel()} (pixels per image)")
