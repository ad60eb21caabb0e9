"""`load_dataset`: a data set by its name."""

import difflib
import os
from collections.abc import Callable

import torch

from pyro_vlae.data import readers
from pyro_vlae.data.files import FileStore
from pyro_vlae.data.split import ImageDataset

_READERS: dict[str, Callable[[FileStore], ImageDataset]] = {
    "static-mnist": readers.read_static_mnist,
    "mnist": readers.read_mnist,
    "omniglot": readers.read_omniglot,
    "caltech101": readers.read_caltech101,
    "digits": readers.read_digits,
}

DATASET_NAMES = tuple(_READERS)
"""The names that `load_dataset` takes."""


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> ImageDataset:
    """Load a data set, verified, with the splits the literature uses.

    Files are looked for in ``root``, then in ``$PYRO_VLAE_DATA``, then in the user cache, each in
    a folder of its own (``mnist/``, ``binarized_mnist/``, ``omniglot/``,
    ``caltech101_silhouettes/``), compressed by gzip or not. What is in none of them is downloaded
    into the user cache; ``root`` and ``$PYRO_VLAE_DATA`` are never written to. A warning is logged
    when a folder that was named lacks a file.

    Args:
        name: One of `DATASET_NAMES`.
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
        >>> data.train.draw(torch.arange(64)).shape
        torch.Size([64, 1, 28, 28])
    """
    if name not in _READERS:
        close = difflib.get_close_matches(name.lower().replace("_", "-"), DATASET_NAMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = ", ".join(DATASET_NAMES)
        raise ValueError(f"there is no data set {name!r}; the names are {names}.{hint}")
    return _READERS[name](FileStore(name, root, download)).to(device)
