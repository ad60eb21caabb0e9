"""Images stored in memory as bytes: one split of a data set."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vlae.data.values import BINARY, Values, uniform


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One split of a data set; the images stay on their device as ``uint8``.

    Args:
        images: ``uint8`` of shape ``(N, C, H, W)``.
        labels: ``int64`` of shape ``(N,)``, on the same device, or None.
        values: what the bytes mean: `BINARY`, `INTENSITIES`, `GRAY`, or `BYTES`.
        flip: whether an image is mirrored left to right with probability 1/2 each time it is
            sampled.

    Raises:
        ValueError: shapes, dtypes, or devices do not match, or a pixel is too large for ``values``.
    """

    images: Tensor
    labels: Tensor | None = None
    values: Values = BINARY
    flip: bool = False

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                "images must be uint8 of shape (N, C, H, W); "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        if self.values.largest < 255 and images.numel() and images.max() > self.values.largest:
            raise ValueError(
                f"{self.values.name} images must be 0 to {self.values.largest}; got a pixel of "
                f"{int(images.max())}. For pixels 0 to 255 pass values=INTENSITIES (binarized each "
                "time an image is sampled) or values=BYTES (kept as they are)."
            )
        expected = (torch.int64, images.shape[:1], images.device)
        if labels is not None and (labels.dtype, labels.shape, labels.device) != expected:
            raise ValueError(
                f"labels must be int64 of shape ({len(images)},) on {images.device}; "
                f"got {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, index: Tensor | slice, generator: torch.Generator | None = None) -> Tensor:
        """Return the values that a model sees of the images at ``index``.

        Intensities are binarized and, if ``flip`` is set, half of the images are mirrored, at
        random each time.

        Args:
            index: A slice, or a one-dimensional index (or mask) tensor on any device.
            generator: source of this randomness, on this split's device; PyTorch's global
                generator if None.

        Returns:
            ``float32`` of shape ``(B, C, H, W)`` on this split's device, with values in
            ``values.support``.

        Raises:
            ValueError: the index is not one-dimensional, or the generator is on another device.
        """
        if isinstance(index, Tensor) and index.dim() != 1:
            raise ValueError(f"index must be one-dimensional; got shape {tuple(index.shape)}")
        x = self.values.sample(self.images[self._local(index)], generator)
        if self.flip:
            mirrored = uniform((len(x), 1, 1, 1), generator, x.device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        return x

    def binarize(self, seed: int) -> "ImageSplit":
        """Return this split with intensities binarized once; other splits are returned as is.

        The sample comes from a CPU generator and is therefore the same on every device.
        """
        if not self.values.bernoulli:
            return self
        bits = self.values.sample(self.images.cpu(), torch.Generator().manual_seed(seed))
        return replace(self, images=bits.to(self.images.device, torch.uint8), values=BINARY)

    def subset(self, size: int, seed: int) -> "ImageSplit":
        """Return ``size`` images sampled without replacement, in random order.

        Use this rather than ``take(slice(size))``: many splits are sorted by class.

        Raises:
            ValueError: ``size`` is not between 1 and the number of images.
        """
        if not 1 <= size <= len(self):
            raise ValueError(f"a subset must have 1 to {len(self)} images; got size={size}")
        generator = torch.Generator().manual_seed(seed)
        return self.take(torch.randperm(len(self), generator=generator, device="cpu")[:size])

    def take(self, index: Tensor | slice) -> "ImageSplit":
        """Return the split of the images and labels at ``index``, still as bytes."""
        index = self._local(index)
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "ImageSplit":
        """Return this split on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ImageSplit":
        labels = None if self.labels is None else function(self.labels)
        return replace(self, images=function(self.images), labels=labels)

    def _local(self, index: Tensor | slice) -> Tensor | slice:
        return index.to(self.images.device) if isinstance(index, Tensor) else index
