"""Loading data sets by name, from one table of readers."""

import os
from collections.abc import Callable

import torch

from pyro_vlae.data import readers
from pyro_vlae.data.files import FileStore
from pyro_vlae.data.image_dataset import ImageDataset
from pyro_vlae.data.names import similar_name
from pyro_vlae.data.values import BINARY, BYTES, GRAY, Values

Reader = Callable[[FileStore], ImageDataset]

_READERS: dict[str, tuple[Reader, Values]] = {
    "static-mnist": (readers.read_static_mnist, BINARY),
    "mnist": (readers.read_mnist, BINARY),
    "omniglot": (readers.read_omniglot, BINARY),
    "caltech101": (readers.read_caltech101, BINARY),
    "digits": (readers.read_digits, BINARY),
    "gray-mnist": (readers.read_gray_mnist, GRAY),
    "cifar10": (readers.read_cifar10, BYTES),
}


def register_dataset(name: str, reader: Reader, values: Values) -> None:
    """Make a data set available to `load_dataset` under this name.

    Args:
        name: its name.
        reader: returns the data set; a `FileStore` finds, downloads, and verifies its files.
        values: the data set's ``values``, by which recipes select their data sets.

    Raises:
        ValueError: the name is taken.
    """
    if name in _READERS:
        raise ValueError(f"there is already a data set {name!r}; register it under another name")
    _READERS[name] = (reader, values)


def dataset_names(values: Values | None = None) -> tuple[str, ...]:
    """The names that `load_dataset` accepts: all, or those whose images have these values."""
    return tuple(name for name, (_, its) in _READERS.items() if values in (None, its))


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> ImageDataset:
    """Load and verify a data set, with the splits used in the literature.

    Splits keep their published order, and some are sorted: take a part of a split with
    ``split.subset(size, seed=0)``, which shuffles.

    Files are searched for in ``root``, then in ``$PYRO_VLAE_DATA``, then in the user cache, each in
    its folder (``mnist/``, ``binarized_mnist/``, ``omniglot/``, ``caltech101_silhouettes/``,
    ``cifar10/``), plain or compressed with gzip or xz. Files found in none of them are downloaded
    into the user cache; nothing is ever written to ``root`` or ``$PYRO_VLAE_DATA``. A warning is
    logged if one of these two lacks a file.

    Args:
        name: one of `dataset_names`: ``"static-mnist"``, ``"mnist"``, ``"omniglot"``,
            ``"caltech101"``, ``"digits"``, ``"gray-mnist"``, ``"cifar10"``, or one that was
            registered. `load_images` loads your own images.
        root: folder to look in first.
        device: where to keep the images, as ``uint8``.
        download: whether missing files may be downloaded.

    Raises:
        ValueError: there is no data set of this name.
        DatasetNotFoundError: a file is neither on disk nor downloadable.
        DatasetCorruptError: a file is not the published one.
        DatasetError: a file cannot be read.

    Example:
        >>> data = load_dataset("digits")
        >>> data.train.batch(torch.arange(64)).shape
        torch.Size([64, 1, 28, 28])
    """
    if name not in _READERS:
        raise ValueError(
            f"there is no data set {name!r}{similar_name(name, _READERS)}; the names are "
            f"{', '.join(_READERS)}. For images of your own, use load_images or "
            "ImageDataset.from_arrays."
        )
    reader, _ = _READERS[name]
    return reader(FileStore(name, root, download)).to(device)
