"""A cache of features for kernels that read many pixels."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.fronts import Fronts


class CanvasCache:
    """Like `FrontCache`, but stored as whole images, from which a front is read in one gather.

    It costs more memory and, for small kernels, more time. `FrontCache` takes a slice per offset,
    which would dominate for kernels of hundreds of pixels.

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
        self.fronts, self.size, self.channels = fronts, size, channels
        self.above = max(0, *(-i for i, _ in offsets))
        self.left = max(0, *(-j for _, j in offsets))
        self.width = self.left + fronts.width + max(0, *(j for _, j in offsets))
        # Pixels outside the image read as zero.
        height = self.above + fronts.height
        self.canvas = like.new_zeros(height * self.width, size * channels)
        self.shifts: dict[tuple[Offset, ...], Tensor] = {}

    def read(self, front: int, offsets: Iterable[Offset]) -> Tensor:
        """The features that a front's P pixels read: ``(P * N, offsets * channels)``."""
        key = tuple(offsets)
        if key not in self.shifts:
            shifts = [i * self.width + j for i, j in key]
            self.shifts[key] = torch.tensor(shifts, device=self.canvas.device)
        places = self._places(front).unsqueeze(1) + self.shifts[key]
        found = self.canvas[places.flatten()].view(*places.shape, self.size, self.channels)
        return found.transpose(1, 2).reshape(len(places) * self.size, -1)

    def write(self, front: int, features: Tensor) -> None:
        """Store the features ``(P * N, channels)`` of a front's pixels."""
        places = self._places(front)
        self.canvas[places] = features.reshape(len(places), -1)

    def select(self, index: Tensor) -> None:
        """Replace the images by those at ``index``, ``(N,)``."""
        by_image = self.canvas.unflatten(1, (self.size, self.channels))
        self.canvas = by_image[:, index].flatten(1)

    def _places(self, front: int) -> Tensor:
        """The front's pixels as indices of the flat canvas."""
        rows = self.fronts.rows(front)
        first = (rows.start + self.above) * self.width + self.left
        first += front - self.fronts.slope * rows.start
        step = self.width - self.fronts.slope  # one row down, and to the left
        return first + step * torch.arange(len(rows), device=self.canvas.device)
