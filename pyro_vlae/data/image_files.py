"""A user's own images on disk: an ``.npz`` file, or a folder of image files."""

import os
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from pyro_vlae.data.errors import DatasetError, DatasetNotFoundError
from pyro_vlae.data.formats import Array
from pyro_vlae.data.image_dataset import ImageDataset
from pyro_vlae.data.sources import picture, stack
from pyro_vlae.data.values import Values
from pyro_vlae.reproducible import open_npz

# Names of the splits: of the folders, and of the arrays as NAME_images and NAME_labels.
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}

Split = tuple[Array, Array | None]


def load_images(path: str | os.PathLike[str], values: Values | None = None) -> ImageDataset:
    """Load your own images from an ``.npz`` file or a folder.

    An ``.npz`` file holds ``images`` and, optionally, ``labels``, or the same by split:
    ``train_images``, ``validation_images`` (or ``val_images``), ``test_images``, and labels
    likewise. Keras' names ``x_train``, ``y_train``, ``x_test``, and ``y_test`` are accepted, too.

    A folder holds image files of one size, or a subfolder of them for each class, whose names are
    the labels. Either may be divided into subfolders ``train``, ``validation`` (or ``val``), and
    ``test``, in upper or lower case. Files that are not images and hidden files are ignored.

    Splits that are missing are held out of the training images at random, a tenth each. The values
    of the images are understood as by `ImageDataset.from_arrays`.

    Args:
        path: the file or folder.
        values: what a model shall see, as for `ImageDataset.from_arrays`.

    Raises:
        DatasetNotFoundError: there is no such file or folder.
        DatasetError: it cannot be read, or holds no such images; the message names the file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        splits = _read_folder(path)
    elif path.is_file():
        splits = _read_npz(path)
    else:
        raise DatasetNotFoundError(f"there is no file or folder {path}")
    if "train" not in splits:
        raise DatasetError(f"{path} holds {' and '.join(splits)} images, but no training images")
    train: Any = splits.pop("train")
    held_out: dict[str, Any] = {**splits}
    name = path.resolve().name.removesuffix(".npz")
    try:
        return ImageDataset.from_arrays(train, values=values, name=name, **held_out)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, Split]:
    """The splits of an ``.npz`` file."""
    again = "save it with numpy.savez_compressed(path, images=images)"
    try:
        with open(path, "rb") as stream, open_npz(stream) as file:
            images = {part: _first(file, keys) for part, keys in _npz_keys("images", "x")}
            labels = {part: _first(file, keys) for part, keys in _npz_keys("labels", "y")}
            names = shorten(", ".join(file), 200)
    except Exception as error:  # of many kinds, if the file is damaged
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DatasetError(f"{path} cannot be read ({reason}): {again}") from error
    splits = {part: (x, labels[part]) for part, x in images.items() if x is not None}
    if not splits:
        raise DatasetError(
            f"{path} holds {names or 'nothing'}; expected images, or train_images, "
            "validation_images, and test_images"
        )
    return splits


def _npz_keys(word: str, letter: str) -> Iterable[tuple[str, list[str]]]:
    """The accepted names of the arrays of each split."""
    for part, names in SPLITS.items():
        keys = [f"{name}_{word}" for name in names] + [f"{letter}_{name}" for name in names]
        yield part, keys + [word] * (part == "train")


def _first(file: Any, keys: list[str]) -> Array | None:
    return next((file[key] for key in keys if key in file), None)


def _read_folder(path: Path) -> dict[str, Split]:
    """The splits of a folder of images."""
    # Sorted, so that "train" has precedence over "Train".
    names = {entry.name.lower(): entry.name for entry in _entries(path) if entry.is_dir()}
    found = {part: [names[n] for n in given if n in names] for part, given in SPLITS.items()}
    if found["train"]:
        return {part: _read_split(path / given[0]) for part, given in found.items() if given}
    others = sorted(name for given in found.values() for name in given)
    if others:
        raise DatasetError(
            f"{path} holds {' and '.join(others)} images, but no training images: add a folder "
            "train, or rename the folders of classes that have the name of a split"
        )
    return {"train": _read_split(path)}


def _read_split(path: Path) -> Split:
    """Images in a folder, without labels, or in one subfolder per class, labeled by its name."""
    files = {None: _image_files(path)}
    classes = {entry.name: _image_files(entry) for entry in _entries(path) if entry.is_dir()}
    classes = {name: inside for name, inside in classes.items() if inside}
    if classes and files[None]:
        raise DatasetError(
            f"{path} holds images ({files[None][0].name}, ...) and folders of images "
            f"({', '.join(classes)}): put all images into folders by class, or none"
        )
    paths = files[None] or [file for inside in classes.values() for file in inside]
    if not paths:
        raise DatasetError(f"{path} holds no images, and no folders of images")
    pictures = [_read_picture(file) for file in paths]
    try:
        images = stack(pictures, lambda i: str(paths[i].relative_to(path)))
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    if images.ndim == 4 and (images == images[..., :1]).all():
        images = images[..., 0]  # gray images saved in color
    return images, np.array([file.parent.name for file in paths]) if classes else None


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def _image_files(path: Path) -> list[Path]:
    from PIL import Image  # takes a moment to import, and only folders need it

    suffixes = Image.registered_extensions()
    return [file for file in _entries(path) if file.suffix.lower() in suffixes and file.is_file()]


def _read_picture(path: Path) -> Array:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return picture(ImageOps.exif_transpose(image))
    except Exception as error:  # of many kinds, if the file is damaged
        raise DatasetError(
            f"{path} cannot be read as an image ({error}): replace or remove it"
        ) from error
