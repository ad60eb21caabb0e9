"""`load_dataset`: a data set by its name."""

import difflib
import os
from collections.abc import Callable

import torch

from pyro_vlae.data import readers
from pyro_vlae.data.cifar import read_cifar10
from pyro_vlae.data.files import FileStore
from pyro_vlae.data.split import ImageDataset

_Readers = dict[str, Callable[[FileStore], ImageDataset]]

_BINARY: _Readers = {
    "static-mnist": readers.read_static_mnist,
    "mnist": readers.read_mnist,
    "omniglot": readers.read_omniglot,
    "caltech101": readers.read_caltech101,
    "digits": readers.read_digits,
}

_COLOR: _Readers = {"cifar10": read_cifar10}

DATASET_NAMES = tuple(_BINARY)
"""The sets of binary images that `load_dataset` takes, all 28x28."""

COLOR_DATASET_NAMES = tuple(_COLOR)
"""The sets of color images that `load_dataset` takes."""


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> ImageDataset:
    """Load a data set, verified, with the splits the literature uses.

    Files are looked for in ``root``, then in ``$PYRO_VLAE_DATA``, then in the user cache, each in
    a folder of its own (``mnist/``, ``binarized_mnist/``, ``omniglot/``,
    ``caltech101_silhouettes/``, ``cifar10/``), compressed by gzip or xz or not. What is in none of
    them is downloaded into the user cache; ``root`` and ``$PYRO_VLAE_DATA`` are never written to. A
    warning is logged when a folder that was named lacks a file.

    Args:
        name: One of `DATASET_NAMES` or `COLOR_DATASET_NAMES`.
        root: Folder to look in first.
        device: Where the images are to be kept, as ``uint8``.
        download: Whether files that are not on disk may be downloaded.

    Raises:
        ValueError: There is no data set of this name.
        DatasetNotFoundError: A file is neither on disk nor downloadable.
        DatasetCorruptError: A file is not the published one.
        DatasetError: A file cannot be read.

    Example:
        >>> data = load_dataset("digits")
        >>> data.train.batch(torch.arange(64)).shape
        torch.Size([64, 1, 28, 28])
    """
    all_readers = _BINARY | _COLOR
    if name not in all_readers:
        close = difflib.get_close_matches(name.lower().replace("_", "-"), all_readers, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = ", ".join(all_readers)
        raise ValueError(f"there is no data set {name!r}; the names are {names}.{hint}")
    return all_readers[name](FileStore(name, root, download)).to(device)
