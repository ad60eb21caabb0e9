"""Evaluating masked convolutional networks pixel by pixel, each layer computing each pixel once.

If a pixel needs, of the rows above, no more than ``slope - 1`` columns to its right per row, then
all pixels with equal ``column + slope * row`` can be drawn together: everything they read belongs
to earlier wavefronts. For 3x3 kernels the slope is 2, so a 28x28 image takes 82 steps, not 784.

References:
    Ramachandran et al., "Fast Generation for Convolutional Autoregressive Models", 2017,
    arXiv:1704.06001 (the cache).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from pyro_vlae.nn.causal import Tap


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


@lru_cache(maxsize=32)
def front_pixels(height: int, width: int, slope: int) -> dict[int, list[tuple[int, int]]]:
    """The pixels (row, column) of each wavefront by its time ``column + slope * row``, in order."""
    pixels: dict[int, list[tuple[int, int]]] = {}
    for i, j in product(range(height), range(width)):
        pixels.setdefault(j + slope * i, []).append((i, j))
    return dict(sorted(pixels.items()))


@lru_cache(maxsize=32)
def wavefronts(
    height: int, width: int, slope: int, device: torch.device | None = None
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The pixels of an image as ``(rows, columns)`` per step, in the order they can be drawn.

    The tensors are kept for later calls, since a GPU would be waited for at each copy from the
    host: nobody may write to them.

    Args:
        height: rows of the image.
        width: its columns.
        slope: pixels with equal ``column + slope * row`` make a step.
        device: where the indices are wanted; None for the CPU.
    """
    with torch.inference_mode(False):
        fronts = [
            torch.tensor(pixels, device=device).T.contiguous()
            for pixels in front_pixels(height, width, slope).values()
        ]
    return tuple((rows, columns) for rows, columns in fronts)


class FrontCache:
    """Features of the latest wavefronts, all that later pixels can still read.

    Every wavefront is stored by image row, so that a tap of all its pixels is a slice of an
    earlier wavefront: reading gathers nothing, and the working set stays small.

    Args:
        like: a tensor of the wanted dtype and device.
        size: number of images N.
        channels: features per pixel.
        height: rows of the images.
        slope: the wavefront of pixel (i, j) is ``j + slope * i``.
        taps: the offsets that are read.
        lead: how many wavefronts writing is ahead of the latest that is read.
    """

    def __init__(
        self,
        like: Tensor,
        size: int,
        channels: int,
        height: int,
        slope: int,
        taps: Iterable[Tap],
        lead: int = 0,
    ) -> None:
        taps = list(taps)
        self.slope = slope
        self.above = max(-i for i, _ in taps)
        depth = 1 + lead + max(-(j + slope * i) for i, j in taps)
        shape = (height + self.above, size, channels)
        self.slots = [like.new_zeros(shape) for _ in range(depth)]
        self.times: list[int | None] = [None] * depth
        self.nothing = torch.zeros_like(self.slots[0])

    def read(self, time: int, rows: range, taps: Iterable[Tap]) -> Tensor:
        """The taps of a wavefront's P pixels as a matrix ``(P * N, taps * channels)``."""
        parts = []
        for i, j in taps:
            at = time + j + self.slope * i
            k = at % len(self.slots)
            slot = self.slots[k] if self.times[k] == at else self.nothing
            parts.append(slot[rows.start + i + self.above : rows.stop + i + self.above])
        return torch.cat(parts, -1).flatten(0, 1)

    def write(self, time: int, rows: range) -> Tensor:
        """Where the features ``(P, N, channels)`` of a wavefront's pixels are to be stored."""
        k = time % len(self.slots)
        self.times[k] = time
        slot = self.slots[k].zero_()  # pixels outside the image read as zero
        return slot[rows.start + self.above : rows.stop + self.above]


class FrontRun:
    """What runs over wavefronts share: the wavefront at hand, and caches of those before it.

    A wavefront's features are matrices ``(P * N, channels)``, P pixels of N images.

    Args:
        like: a tensor of the wanted dtype and device.
        size: number of images N.
        height: rows of the images.
        width: their columns.
        slope: the wavefront of pixel (i, j) is ``j + slope * i``.
    """

    def __init__(self, like: Tensor, size: int, height: int, width: int, slope: int) -> None:
        self.like, self.size, self.height, self.width = like, size, height, width
        self.slope = slope
        self.wavefronts = wavefronts(height, width, slope, like.device)
        self._times = iter(front_pixels(height, width, slope))
        self.time, self.rows = -1, range(0)

    def next_front(self) -> None:
        """Go on to the next wavefront: its time, and the rows that have a pixel in it."""
        self.time = next(self._times)
        self.rows = self.rows_at(self.time)

    def rows_at(self, time: int) -> range:
        """The rows that have a pixel in the wavefront of this time."""
        first = max(0, -((self.width - 1 - time) // self.slope))
        return range(first, min(self.height - 1, time // self.slope) + 1)

    def cache(self, channels: int, taps: Iterable[Tap], lead: int = 0) -> FrontCache:
        """An empty `FrontCache` for this run."""
        return FrontCache(self.like, self.size, channels, self.height, self.slope, taps, lead)

    def pixels(self, maps: Tensor, time: int, rows: range) -> Tensor:
        """A wavefront's pixels of maps ``(height * width, N, channels)``, as `by_pixel` lays them.

        A strided slice: the next pixel is a row down and ``slope`` columns to the left.
        """
        first = rows.start * self.width + time - self.slope * rows.start
        step = max(1, self.width - self.slope)  # narrower images have one pixel in a wavefront
        return maps[first : first + (len(rows) - 1) * step + 1 : step].flatten(0, 1)

    def by_image(self, features: Tensor) -> Tensor:
        """Features as ``(P, N, channels)``."""
        return features.view(-1, self.size, features.shape[-1])

    def as_parameters(self, features: Tensor) -> Tensor:
        """Features as ``(N, channels, 1, P)``."""
        return self.by_image(features).permute(1, 2, 0).unsqueeze(2).contiguous()


def by_pixel(maps: Tensor) -> Tensor:
    """Maps ``(N, C, H, W)`` as ``(H * W, N, C)``."""
    return maps.permute(2, 3, 0, 1).flatten(0, 1).contiguous()


class PixelCache:
    """Features of all pixels of a batch of images, filled in wavefront by wavefront.

    Stored as ``(N, positions, channels)`` with a border of zeros, so that reading the taps of some
    pixels is one gather whose result is already a matrix to multiply. Slower than `FrontCache`, but
    whoever writes can do so out of place, which autograd needs.
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

    def around(self, positions: Tensor, taps: Iterable[Tap]) -> Tensor:
        """The positions of the taps of P pixels, ``(P, taps)``."""
        return torch.stack([positions + (i * self.stride + j) for i, j in taps], 1)

    def read(self, around: Tensor) -> Tensor:
        """The features at the taps of P pixels: ``(N, P, taps * channels)``."""
        taken = self.values.index_select(1, around.flatten())
        return taken.view(len(taken), len(around), -1)
