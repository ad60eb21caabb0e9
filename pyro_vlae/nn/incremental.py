"""Evaluating masked convolutional networks pixel by pixel, each layer computing each pixel once.

If a pixel needs, of the rows above, no more than ``slope - 1`` columns to its right per row, then
all pixels with equal ``column + slope * row`` can be drawn together: everything they read belongs
to earlier wavefronts. For 3x3 kernels the slope is 2, so a 28x28 image takes 82 steps, not 784.

References:
    Ramachandran et al., "Fast Generation for Convolutional Autoregressive Models", 2017,
    arXiv:1704.06001 (the cache).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyro_vlae.nn.masked import Tap


def wavefront_slope(image_taps: Iterable[Tap], feature_taps: Iterable[Tap] = ()) -> int:
    """The smallest slope for which every tap reads what is known by then.

    Args:
        image_taps: offsets at which pixel values are read; these must be in earlier wavefronts.
        feature_taps: offsets at which features are read; the same wavefront will do, since layers
            are evaluated one after the other.
    """
    slope = 1
    for taps, slack in ((image_taps, 1), (feature_taps, 0)):
        for row, column in taps:
            if row < 0:
                slope = max(slope, -((column + slack) // row))
    return slope


def wavefronts(height: int, width: int, slope: int) -> list[tuple[Tensor, Tensor]]:
    """The pixels of an image as ``(rows, columns)`` per step, in the order they can be drawn."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    step = columns + slope * rows
    return [(rows[step == t], columns[step == t]) for t in step.unique().tolist()]


def wavefront_at(
    time: int, height: int, width: int, slope: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The pixels ``(rows, columns)`` with ``column + slope * row`` equal to `time`, if any."""
    first = max(0, -((width - 1 - time) // slope))
    rows = torch.arange(first, max(first, min(height - 1, time // slope) + 1), device=device)
    return rows, time - slope * rows


class PixelCache:
    """Features of all pixels of a batch of images, filled in wavefront by wavefront.

    Stored as ``(N, positions, channels)`` with a border of zeros, so that reading the taps of some
    pixels is one gather whose result is already a matrix to multiply.
    """

    def __init__(
        self, like: Tensor, size: int, channels: int, image: Sequence[int], pad: int
    ) -> None:
        height, width = image
        self.pad = pad
        self.stride = width + 2 * pad
        self.values = like.new_zeros(size, (height + pad) * self.stride, channels)

    def positions(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Indices of pixels in the padded layout."""
        return (rows + self.pad) * self.stride + columns + self.pad

    def offsets(self, taps: Sequence[Tap]) -> Tensor:
        """What to add to a pixel's position to reach its taps."""
        return torch.tensor([i * self.stride + j for i, j in taps], device=self.values.device)

    def read(self, positions: Tensor, offsets: Tensor) -> Tensor:
        """The taps of P pixels: ``(N, P, taps * channels)``."""
        index = (positions[:, None] + offsets).flatten()
        taken = self.values.index_select(1, index)
        return taken.view(len(taken), len(positions), -1)

    def write(self, positions: Tensor, features: Tensor) -> None:
        """Set the features ``(N, P, channels)`` of P pixels."""
        self.values.index_copy_(1, positions, features)
