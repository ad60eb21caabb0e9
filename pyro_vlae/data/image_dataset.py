"""The train, validation, and test splits of a data set, also of a user's own images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import torch

from pyro_vlae.data.arrays import convert
from pyro_vlae.data.split import ImageSplit
from pyro_vlae.data.values import BINARY, BYTES, GRAY, INTENSITIES, Values

VALIDATION_SEED, TEST_SEED = 1, 2
"""Seeds for binarizing the validation and test images of intensities."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """The train, validation, and test splits of a data set, on one device.

    Splits keep their published order, and some are sorted: static MNIST's test images by digit,
    OMNIGLOT's by alphabet. Take a part of a split with `ImageSplit.subset`, which shuffles.

    Args:
        name: the name it is loaded by.
        description: which version it is, and how its test images were binarized.
        train: the training images; intensities are binarized each time an image is sampled.
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

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        validation: Any = 0.1,
        test: Any = 0.1,
        values: Values | None = None,
        channels_last: bool | None = None,
        name: str = "images",
        seed: int = 0,
    ) -> "ImageDataset":
        """Make a data set of your own images; its description says how they were understood.

        Images can be

        - arrays or tensors ``(N, H, W)``, ``(N, C, H, W)``, or ``(N, H, W, C)`` with 1 or 3
          channels: bools, integers 0 to 255, or floats 0 to 1, which are rounded to 256 levels;
        - a data set with a length whose items are Pillow images, arrays, tensors, pairs of an
          image and a label (torchvision), or dicts with an image and a label (Hugging Face). Each
          item is read once, so random transforms are applied only once.

        Args:
            images: the images, alone or in a pair with labels.
            labels: integers or strings ``(N,)``; they replace those of a data set.
            validation: validation images, given in the same way, or the fraction of ``images`` to
                hold out.
            test: test images, or a fraction, likewise.
            values: what a model shall see of images with 1 channel. `GRAY`: 256 levels. `BINARY`:
                gray levels are probabilities of a 1, and training images are binarized each time
                one is sampled. None: `BINARY` for images of 0 and 1 or of 0 and 255, `GRAY` for
                others. Images with 3 channels have `BYTES`.
            channels_last: whether four-dimensional arrays are ``(N, H, W, C)``; None to infer it.
            name: name of the data set.
            seed: seed of the random split.

        Raises:
            ValueError: shapes, values, labels, or fractions are not as above.
            TypeError: images or values of an unknown kind.

        Example:
            >>> data = ImageDataset.from_arrays(torch.rand(100, 20, 20), values=BINARY)
            >>> data.train.batch(slice(0, 64)).shape
            torch.Size([64, 1, 20, 20])
        """
        given = {"train": (images, labels), "validation": (validation, None), "test": (test, None)}
        fractions = {part: v for part, (v, _) in given.items() if isinstance(v, int | float)}
        found = convert({p: v for p, v in given.items() if p not in fractions}, channels_last)
        channels, height, width = found.images["train"].shape[1:]
        allowed = (BYTES,) if channels == 3 else (BINARY, GRAY)
        if values is not None and not isinstance(values, Values):
            raise TypeError(
                f"values must be BINARY, GRAY, or BYTES of pyro_vlae.data, got {values!r}"
            )
        if values is not None and values not in allowed:
            raise ValueError(
                "images with 1 channel can have binary or gray values, those with 3 channels "
                f"bytes; got values={values.name} for {channels}: choose others (another family of "
                "models), or convert the images"
            )
        values = values or allowed[not found.binary and channels == 1]
        stored = INTENSITIES if values == BINARY and not found.binary else values
        factor = 255 if found.binary and values != BINARY else 1
        splits = {
            part: ImageSplit(bytes_ * factor, found.labels[part], stored)
            for part, bytes_ in found.images.items()
        }
        splits |= _hold_out(splits["train"], fractions, seed)
        parts = [splits[part] for part in given]
        kind = "binary" if found.binary else "color" if channels == 3 else "gray"
        description = (
            f"{name}: {sum(map(len, parts)):,} {kind} images {height}x{width} ({found.read_as}); "
            f"{' / '.join(f'{len(part):,}' for part in parts)} to train, validate, and test"
            f"{f' (held out at random, seed {seed})' if fractions else ''}; "
            f"{_describe_labels(parts, found.classes)}; checksum {_checksum(parts):08x}"
        )
        make = cls.of_intensities if stored == INTENSITIES else cls
        data = make(name, description, *parts)
        _log.info(data.description)
        return data

    @property
    def values(self) -> Values:
        """The values that a model sees: `BINARY` even if the training images are `INTENSITIES`."""
        return self.test.values

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self.train.image_shape

    @property
    def train_validation(self) -> ImageSplit:
        """Train and validation images together, sampled as training images are, for a final run."""
        parts = self.train, self._validation_intensities or self.validation
        labels = [part.labels for part in parts if part.labels is not None]
        return replace(
            self.train,
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat(labels) if len(labels) == 2 else None,
        )

    def with_flips(self) -> "ImageDataset":
        """Return this data set with training images mirrored at random, the others unchanged."""
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


def _hold_out(
    split: ImageSplit, fractions: Mapping[str, float], seed: int
) -> dict[str, ImageSplit]:
    """Divide a split at random into the parts with these fractions and the rest, ``"train"``."""
    if not fractions:
        return {}
    count = len(split)
    sizes = {part: max(1, round(fraction * count)) for part, fraction in fractions.items()}
    sizes["train"] = count - sum(sizes.values())
    if sizes["train"] < 1 or not all(0 < fraction < 1 for fraction in fractions.values()):
        shown = ", ".join(f"{part}={fraction:g}" for part, fraction in fractions.items())
        raise ValueError(
            f"{count} images cannot be split with {shown}: there must be at least one for each "
            "split, and fractions between 0 and 1"
        )
    parts = torch.split(torch.arange(count), list(sizes.values()))
    shuffled = split.subset(count, seed)
    return {part: shuffled.take(index) for part, index in zip(sizes, parts, strict=True)}


def _describe_labels(parts: Sequence[ImageSplit], classes: Sequence[str]) -> str:
    labels = [part.labels for part in parts if part.labels is not None]
    if not labels:
        return "no labels"
    count = len(torch.cat(labels).unique())
    if not classes:
        return f"{count} labels"
    return f"{count} labels ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})"


def _checksum(parts: Sequence[ImageSplit]) -> int:
    """The CRC-32 of all images, by which a changed data set is noticed when a run is resumed."""
    checksum = 0
    for part in parts:
        checksum = crc32(part.images.numpy().tobytes(), checksum)
    return checksum
