"""Images stored in memory as bytes: a split, and the three splits of a data set."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_vlae.data.values import BINARY, Values, uniform

VALIDATION_SEED, TEST_SEED = 1, 2
"""Seeds for binarizing the validation and test images of intensities."""


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One split of a data set; the images stay on their device as ``uint8``.

    Args:
        images: ``uint8`` of shape ``(N, C, H, W)``.
        labels: ``int64`` of shape ``(N,)``, on the same device, or None.
        values: what the bytes mean: `BINARY`, `INTENSITIES` or `BYTES`.
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


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """The train, validation, and test splits of a data set, on one device.

    Splits keep their published order, and some are sorted: static MNIST's test images by digit,
    OMNIGLOT's by alphabet. Take a part of a split with `ImageSplit.subset`, which shuffles.

    Args:
        name: the name it is loaded by.
        description: which version it is, and how its test images were binarized.
        train: the train images; intensities are binarized each time an image is sampled.
        validation: the validation images, never random: intensities were binarized once.
        test: the test images, never random either.
    """

    name: str
    description: str
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    _validation_intensities: ImageSplit | None = field(default=None, repr=False)

    @classmethod
    def of_intensities(
        cls,
        name: str,
        description: str,
        train: ImageSplit,
        validation: ImageSplit,
        test: ImageSplit,
    ) -> "ImageDataset":
        """Make a data set from splits of `INTENSITIES`; validation and test are binarized once.

        How the images were binarized is added to the description.
        """
        description += (
            "; train binarized each time an image is sampled, validation and test once "
            f"(seeds {VALIDATION_SEED} and {TEST_SEED})"
        )
        bits = validation.binarize(VALIDATION_SEED), test.binarize(TEST_SEED)
        return cls(name, description, train, *bits, validation)

    @property
    def values(self) -> Values:
        """The values that a model sees: `BINARY` also if the train images are `INTENSITIES`."""
        return self.test.values

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self.train.image_shape

    @property
    def train_validation(self) -> ImageSplit:
        """Train and validation images together, sampled as train images are, for a final run."""
        parts = self.train, self._validation_intensities or self.validation
        labels = [part.labels for part in parts if part.labels is not None]
        return replace(
            self.train,
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat(labels) if len(labels) == 2 else None,
        )

    def with_flips(self) -> "ImageDataset":
        """Return this data set with train images mirrored at random; the others are unchanged."""
        return replace(self, train=replace(self.train, flip=True))

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Return this data set on ``device``."""
        intensities = self._validation_intensities
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            _validation_intensities=None if intensities is None else intensities.to(device),
        )
