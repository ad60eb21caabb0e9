"""The wavefronts of an image (`pyro_vlae.nn.wavefront`), and a cache of their features."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from pyro_vlae.nn.causal import Offset

Front = tuple[Tensor, Tensor]  # rows and columns of pixels that can be sampled together


def wavefront_slope(offsets: Iterable[Offset]) -> int:
    """The smallest slope for which the pixels at all of these offsets lie in earlier fronts."""
    return max([1, *(column // -row + 1 for row, column in offsets if row < 0)])


@lru_cache(maxsize=32)
def _wavefronts(
    height: int, width: int, slope: int, device: torch.device | None
) -> dict[int, Front]:
    pixels: dict[int, list[tuple[int, int]]] = {}
    for i, j in product(range(height), range(width)):
        pixels.setdefault(j + slope * i, []).append((i, j))
    with torch.inference_mode(False):
        fronts = {
            time: torch.tensor(pixels[time], device=device).T.contiguous()
            for time in sorted(pixels)
        }
    return {time: (rows, columns) for time, (rows, columns) in fronts.items()}


@lru_cache(maxsize=4096)
def _rows(height: int, width: int, slope: int, front: int) -> range:
    first = max(0, -((width - 1 - front) // slope))
    return range(first, min(height - 1, front // slope) + 1)


def wavefronts(
    height: int, width: int, slope: int, device: torch.device | None = None
) -> tuple[Front, ...]:
    """The pixels of an image as ``(rows, columns)`` of each front, in the order of sampling.

    The tensors are cached, because each copy to a GPU would synchronize the host with it: do not
    write to them.

    Args:
        height: rows of the image.
        width: columns of the image.
        slope: pixels with equal ``column + slope * row`` form a front.
        device: device of the indices; None for the CPU.
    """
    return tuple(_wavefronts(height, width, slope, device).values())


@dataclass(frozen=True)
class Fronts:
    """The pixels of images by front; pixel (i, j) belongs to front ``j + slope * i``.

    Args:
        height: rows of the images.
        width: columns of the images.
        slope: see `wavefront_slope`.
    """

    height: int
    width: int
    slope: int

    def indices(self, device: torch.device) -> dict[int, Front]:
        """Rows and columns of the pixels of each nonempty front, in order."""
        return _wavefronts(self.height, self.width, self.slope, device)

    def rows(self, front: int) -> range:
        """The rows that have a pixel in a front."""
        return _rows(self.height, self.width, self.slope, front)

    def pixels(self, maps: Tensor, front: int) -> Tensor:
        """Select a front's P pixels from features ``(height * width, N, C)``: ``(P * N, C)``.

        It is a strided slice: the next pixel is one row down and ``slope`` columns to the left.
        """
        rows = self.rows(front)
        first = rows.start * self.width + front - self.slope * rows.start
        step = max(1, self.width - self.slope)  # narrower images have one pixel in a front
        return maps[first : first + (len(rows) - 1) * step + 1 : step].flatten(0, 1)


def by_pixel(maps: Tensor) -> Tensor:
    """Feature maps ``(N, C, H, W)`` as ``(H * W, N, C)``."""
    return maps.permute(2, 3, 0, 1).flatten(0, 1).contiguous()


class FrontCache:
    """A cache of the features that later pixels can still read: those of the most recent fronts.

    Each front is stored by image row, so that the features its pixels read at one offset are a
    slice of an earlier front: reading needs no gather, and the working set stays small.

    Args:
        like: a tensor with the dtype and device to use.
        size: number of images N.
        channels: features per pixel.
        fronts: the fronts of the images.
        offsets: all offsets at which the features are read.
    """

    def __init__(
        self, like: Tensor, size: int, channels: int, fronts: Fronts, offsets: Iterable[Offset]
    ) -> None:
        offsets = list(offsets)
        self.fronts = fronts
        self.above = max(-i for i, _ in offsets)
        depth = 1 + max(-(j + fronts.slope * i) for i, j in offsets)
        shape = (fronts.height + self.above, size, channels)
        self.slots = [like.new_zeros(shape) for _ in range(depth)]
        self.held: list[int | None] = [None] * depth  # the front in each slot
        self.nothing = torch.zeros_like(self.slots[0])

    def read(self, front: int, offsets: Iterable[Offset]) -> Tensor:
        """The features that a front's P pixels read: ``(P * N, offsets * channels)``."""
        rows, parts = self.fronts.rows(front), []
        for i, j in offsets:
            read = front + j + self.fronts.slope * i
            k = read % len(self.slots)
            slot = self.slots[k] if self.held[k] == read else self.nothing
            parts.append(slot[rows.start + i + self.above : rows.stop + i + self.above])
        return (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).flatten(0, 1)

    def write(self, front: int, features: Tensor) -> None:
        """Store the features ``(P * N, channels)`` of a front's pixels."""
        rows, k = self.fronts.rows(front), front % len(self.slots)
        slot = self.slots[k]
        if self.held[k] != front:
            slot.zero_()  # pixels outside the image read as zero
            self.held[k] = front
        slot[rows.start + self.above : rows.stop + self.above] = features.view(
            len(rows), *slot.shape[1:]
        )

    def select(self, index: Tensor) -> None:
        """Replace the images by those at ``index``, ``(N,)``."""
        self.slots = [slot[:, index] for slot in self.slots]
