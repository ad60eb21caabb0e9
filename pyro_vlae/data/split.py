"""Images held in memory as bytes: one split, and the three splits of a data set."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One split of a data set; the images stay on their device as ``uint8``.

    Args:
        images: ``uint8`` of shape ``(N, C, H, W)``: bits 0 and 1 (ink or object is 1), or gray
            levels 0 to 255 when ``gray``, or levels of color or gray when ``levels``.
        labels: ``int64`` of shape ``(N,)``, on the same device, or None.
        gray: Whether each presentation is a fresh Bernoulli sample with mean ``images / 255``.
        levels: Whether the levels themselves are the data: level k is drawn as ``k / 127.5 - 1``.
        flip: Whether each presentation is mirrored left to right with probability 1/2.

    Raises:
        ValueError: Shapes, types or devices do not fit, binary images have other values, or the
            images are said to be both gray and levels.
    """

    images: Tensor
    labels: Tensor | None = None
    gray: bool = False
    levels: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                "images must be uint8 of shape (N, C, H, W); "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        if self.gray and self.levels:
            raise ValueError(
                "images cannot be both gray and levels: gray=True binarizes them at every "
                "presentation, levels=True draws their 256 levels as they are"
            )
        binary = not (self.gray or self.levels)
        if binary and images.numel() and images.max() > 1:
            raise ValueError(
                f"binary images must be 0 or 1; got a pixel of {int(images.max())}. "
                "For levels 0 to 255 pass gray=True (binarized when drawn) or levels=True (kept)."
            )
        if labels is not None and (
            labels.dtype != torch.int64
            or labels.shape != images.shape[:1]
            or labels.device != images.device
        ):
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

    def to(self, device: torch.device | str) -> "ImageSplit":
        """Return this split on ``device``."""
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, images=self.images.to(device), labels=labels)

    def batch(self, index: Tensor | slice, generator: torch.Generator | None = None) -> Tensor:
        """Return the images at ``index`` as a model takes them.

        Gray images are binarized afresh; where ``flip`` is set, half of the images are mirrored.

        Args:
            index: A slice, or a one-dimensional index (or mask) tensor on any device;
                ``slice(None)`` for all.
            generator: Source of the binarization and the flips, on this split's device; PyTorch's
                global one by default. Where there are neither, none is used.

        Returns:
            ``float32`` of shape ``(B, C, H, W)`` on this split's device, with values 0 and 1, or
            ``k / 127.5 - 1`` for level k.
        """
        if isinstance(index, Tensor):
            if index.dim() != 1:
                raise ValueError(f"index must be one-dimensional; got shape {tuple(index.shape)}")
            index = index.to(self.images.device)
        images = self.images[index]
        drawn = (_bernoulli(images, generator) if self.gray else images).to(torch.float32)
        if self.levels:
            drawn = drawn / 127.5 - 1
        if self.flip:
            mirrored = _uniform((len(drawn), 1, 1, 1), generator, drawn.device) < 0.5
            drawn = torch.where(mirrored, drawn.flip(-1), drawn)
        return drawn

    def binarize(self, seed: int) -> "ImageSplit":
        """Return this split binarized once and for all; itself when it is not gray.

        The sample comes from a CPU generator, so that it is the same for every device.
        """
        if not self.gray:
            return self
        generator = torch.Generator().manual_seed(seed)
        bits = _bernoulli(self.images.cpu(), generator).to(torch.uint8)
        return dataclasses.replace(self, images=bits.to(self.images.device), gray=False)

    def subset(self, size: int, seed: int) -> "ImageSplit":
        """Return ``size`` images drawn without replacement, in random order.

        Raises:
            ValueError: ``size`` is not between 1 and the number of images.
        """
        if not 1 <= size <= len(self):
            raise ValueError(f"a subset must have 1 to {len(self)} images; got size={size}")
        generator = torch.Generator().manual_seed(seed)
        return self.take(torch.randperm(len(self), generator=generator, device="cpu")[:size])

    def take(self, index: Tensor | slice) -> "ImageSplit":
        """Return the images and labels at ``index``, undrawn."""
        if isinstance(index, Tensor):
            index = index.to(self.images.device)
        labels = None if self.labels is None else self.labels[index]
        return dataclasses.replace(self, images=self.images[index], labels=labels)


def _bernoulli(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample bits with mean ``levels / 255``: level 0 is never ink, level 255 always."""
    return _uniform(levels.shape, generator, levels.device) < levels.to(torch.float32) / 255


def _uniform(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"the generator is on {generator.device}, the images are on {device}")
    # float32 whatever the default dtype: the binarized test sets must not depend on it.
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """The train, validation and test splits of a data set, on one device.

    Args:
        name: The name it is loaded by.
        description: What it is, for people: which version, how test images were binarized.
        train: Gray when images are re-binarized at every presentation.
        validation: Always fixed bits where images are binary.
        test: Likewise.
        gray_validation: The gray images behind ``validation``, where it was binarized here.
    """

    name: str
    description: str
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    gray_validation: ImageSplit | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self.train.image_shape

    @property
    def train_validation(self) -> ImageSplit:
        """Train and validation images together, for a final run; all of them gray or none."""
        parts = [self.train, self.gray_validation or self.validation]
        labels = [part.labels for part in parts if part.labels is not None]
        return dataclasses.replace(
            self.train,
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat(labels) if labels else None,
        )

    def with_flips(self) -> "ImageDataset":
        """Return this data set with train images mirrored at random; the others are left alone."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, flip=True))

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Return this data set on ``device``."""
        gray = self.gray_validation
        return dataclasses.replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            gray_validation=None if gray is None else gray.to(device),
        )
