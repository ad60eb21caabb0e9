"""The meaning of stored bytes: the values that a model sees, and the unit of its score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Values:
    """The meaning of the bytes that a split stores: a byte b stands for ``b / scale + offset``.

    Args:
        name: its name, for messages.
        unit: unit of a score: ``"nats"`` per image, or ``"bits/dim"``.
        largest: the largest byte.
        scale: divides the bytes.
        offset: added to the quotient.
        bernoulli: whether a byte stands for the probability of a 1. A model then sees a binary
            sample, a new one each time.
        black: whether 0 is black in plots of one channel; otherwise 0 is paper and 1 is ink.
        item: what one example is called, for messages.
    """

    name: str
    unit: str
    largest: int
    scale: float
    offset: float = 0.0
    bernoulli: bool = False
    black: bool = False
    item: str = "image"

    @property
    def support(self) -> Tensor:
        """The values that a model may see, ascending: ``float32``, on the CPU."""
        if self.bernoulli:
            return torch.tensor([0.0, 1.0])
        return self._decode(torch.arange(self.largest + 1, dtype=torch.uint8))

    def sample(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Convert images to the values that a model sees; only `INTENSITIES` are random.

        Args:
            images: ``uint8`` of any shape.
            generator: on the device of the images; PyTorch's global generator if None.

        Returns:
            ``float32`` of the same shape, on the same device.

        Raises:
            ValueError: the generator is on another device.
        """
        decoded = self._decode(images)
        if not self.bernoulli:
            return decoded
        # Byte 0 is never 1, and the largest byte always is.
        return (uniform(images.shape, generator, images.device) < decoded).to(torch.float32)

    def to_unit_range(self, x: Tensor) -> Tensor:
        """Map what a model sees to [0, 1], on the CPU, for plots; `GRAY` gets three channels."""
        low, high = self.support[[0, -1]].tolist()
        x = (x.cpu() - low) / (high - low)
        return x.expand(*x.shape[:-3], 3, *x.shape[-2:]) if self.black else x

    def score(self, nats_per_image: float, dimensions: int) -> float:
        """Convert a score or its error from nats per image to `unit`, given the data dimensions."""
        return nats_per_image / (dimensions * math.log(2) if self.unit == "bits/dim" else 1)

    def _decode(self, images: Tensor) -> Tensor:
        return images.to(torch.float32) / self.scale + self.offset


BINARY = Values("binary", "nats", largest=1, scale=1)
"""Bytes 0 and 1 (ink, or the object), which a model sees unchanged."""

INTENSITIES = Values("intensities", "nats", largest=255, scale=255, bernoulli=True)
"""Gray intensities 0 to 255; a model sees Bernoulli samples with mean ``byte / 255``."""

BYTES = Values("bytes", "bits/dim", largest=255, scale=127.5, offset=-1)
"""256 levels of each color; a model sees level k as ``k / 127.5 - 1``."""

GRAY = Values("gray", "bits/dim", largest=255, scale=127.5, offset=-1, black=True)
"""256 gray levels on one channel, 0 is black; a model sees level k as ``k / 127.5 - 1``."""


def uniform(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Sample ``float32`` values from [0, 1), independent of PyTorch's default dtype."""
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"the generator is on {generator.device}, the images are on {device}")
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=torch.float32)
