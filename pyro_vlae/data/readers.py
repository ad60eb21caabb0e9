"""One reader for each data set: which files, which splits, which way up.

To add a set: say where its files come from (`PublishedFile`, `MIRRORS`), write a reader that
returns an `ImageDataset`, and enter it in `pyro_vlae.data.datasets`.

References:
    The MNIST database of handwritten digits, LeCun, Cortes & Burges, 1998.
    On the quantitative analysis of deep belief networks, Salakhutdinov & Murray, 2008
        (the static binarization).
    Human-level concept learning through probabilistic program induction, Lake et al., 2015
        (OMNIGLOT).
    Importance weighted autoencoders, Burda, Grosse & Salakhutdinov, 2016, arXiv 1509.00519
        (OMNIGLOT at 28x28).
    Inductive principles for restricted Boltzmann machine learning, Marlin et al., 2010
        (Caltech-101 Silhouettes).
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vlae.data.files import FileStore, PublishedFile, read_verified
from pyro_vlae.data.formats import (
    Bytes,
    decode_amat,
    decode_idx,
    decode_mat,
    to_bits,
    to_levels,
    upright,
)
from pyro_vlae.data.split import ImageDataset, ImageSplit
from pyro_vlae.data.values import BINARY, INTENSITIES, Values

SPLIT_SEED = 0
"""Shuffles OMNIGLOT and the digits before they are split."""


def _split(
    images: Bytes, labels: npt.NDArray[Any] | None = None, values: Values = BINARY
) -> ImageSplit:
    """Make a split of images ``(N, H, W)``."""
    # Copied: decoded images can be read-only or strided views of a file's content.
    return ImageSplit(
        torch.from_numpy(np.array(images, order="C")).unsqueeze(1),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        values,
    )


def _of_intensities(
    name: str, description: str, train: ImageSplit, test: ImageSplit, held_out: int
) -> ImageDataset:
    """Hold out the last train images for validation."""
    kept = len(train) - held_out
    return ImageDataset.of_intensities(
        name, description, train.take(slice(kept)), train.take(slice(kept, None)), test
    )


def _amat(part: str, digest: str) -> PublishedFile:
    name, checksum = f"binarized_mnist_{part}.amat", f"sha256:{digest}"
    return PublishedFile("binarized_mnist", name, checksum, name, checksum)


_STATIC_MNIST = {
    "train": _amat("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
    "valid": _amat("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
    "test": _amat("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
}


def _idx(name: str, content: str, served: str) -> PublishedFile:
    return PublishedFile("mnist", name, f"sha256:{content}", name + ".gz", f"sha256:{served}")


_MNIST = {
    "train-images": _idx(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels": _idx(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "test-images": _idx(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "test-labels": _idx(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}


def read_static_mnist(store: FileStore) -> ImageDataset:
    """MNIST as binarized by Salakhutdinov & Murray: 50,000 / 10,000 / 10,000.

    The test images are those of MNIST sorted by digit, each digit's in the published order: take
    subsets by `ImageSplit.subset`. Their labels 0 to 9 are therefore known where MNIST's file of
    test labels is on disk, and None where it is not. Train and validation are an unpublished
    shuffle of MNIST's train images and have no labels; the binarized images of ``mnist`` have.
    """

    def part(name: str, count: int, labels: npt.NDArray[Any] | None = None) -> ImageSplit:
        images = store.load(_STATIC_MNIST[name], partial(decode_amat, shape=(count, 28, 28)))
        return _split(images, labels)

    labels = store.load_if_on_disk(_MNIST["test-labels"], partial(decode_idx, shape=(10_000,)))
    return ImageDataset(
        "static-mnist",
        "static MNIST (fixed binarization of Salakhutdinov & Murray, files of Larochelle)",
        train=part("train", 50_000),
        validation=part("valid", 10_000),
        test=part("test", 10_000, None if labels is None else np.sort(labels)),
    )


def read_mnist(store: FileStore) -> ImageDataset:
    """MNIST in gray levels: 50,000 / the last 10,000 of train / 10,000, labeled 0 to 9."""

    def part(name: str, count: int) -> ImageSplit:
        images = partial(decode_idx, shape=(count, 28, 28))
        labels = partial(decode_idx, shape=(count,))
        return _split(
            store.load(_MNIST[f"{name}-images"], images),
            store.load(_MNIST[f"{name}-labels"], labels),
            values=INTENSITIES,
        )

    train, test = part("train", 60_000), part("test", 10_000)
    return _of_intensities("mnist", "dynamic MNIST", train, test, held_out=10_000)


_OMNIGLOT = PublishedFile(
    "omniglot",
    "chardata.mat",
    "md5:21ecaf34373511aa7691cf2e0802aa3d",
    served_name="chardata.mat",
    served_checksum="md5:21ecaf34373511aa7691cf2e0802aa3d",
)
_OMNIGLOT_REBUILT = PublishedFile(
    "omniglot",
    "omniglot_28_rebuilt.mat",
    "sha256:75fa4714b89191a362a536ea41ad7ab09822243fc937118fd64a5d47c520d3f6",
)


def read_omniglot(store: FileStore) -> ImageDataset:
    """OMNIGLOT at 28x28: 23,000 / 1,345 / 8,070, gray, labeled by alphabet 0 to 49.

    The 24,345 published train images are shuffled by `SPLIT_SEED` and the last 1,345 held out.
    Intensities are rounded to 256 gray levels. In each folder the original ``chardata.mat`` is
    preferred; the description of a set read from the rebuilt file says so.
    """
    path, file = store.find(_OMNIGLOT, _OMNIGLOT_REBUILT)

    def decode(content: bytes) -> tuple[ImageSplit, ImageSplit]:
        train, test = 24_345, 8_070
        shapes = {"data": (784, train), "target": (50, train)}
        shapes |= {"testdata": (784, test), "testtarget": (50, test)}
        found = decode_mat(content, shapes)

        def part(prefix: str) -> ImageSplit:
            images = to_levels(upright(found[f"{prefix}data"].T))  # one image a column
            return _split(images, found[f"{prefix}target"].argmax(axis=0), values=INTENSITIES)

        return part(""), part("test")

    train, test = read_verified(path, file, decode)
    train = train.subset(len(train), SPLIT_SEED)
    version = "as published by Burda et al. (chardata.mat)"
    if file is _OMNIGLOT_REBUILT:
        version = f"rebuilt from the raw images ({file.name}), not the original chardata.mat"
    description = f"OMNIGLOT, 28x28, {version}"
    return _of_intensities("omniglot", description, train, test, held_out=1_345)


_CALTECH_NAME = "caltech101_silhouettes_28_split1.mat"
_CALTECH_CHECKSUM = "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a"
_CALTECH = PublishedFile(
    "caltech101_silhouettes", _CALTECH_NAME, _CALTECH_CHECKSUM, _CALTECH_NAME, _CALTECH_CHECKSUM
)


def read_caltech101(store: FileStore) -> ImageDataset:
    """Caltech-101 Silhouettes at 28x28: 4,100 / 2,264 / 2,307, labeled 0 to 100.

    The file has column-major images with the object 0; here they are upright and the object is 1.
    Its classes 1 to 101 become labels 0 to 100.
    """
    counts = {"train": 4_100, "val": 2_264, "test": 2_307}

    def decode(content: bytes) -> list[ImageSplit]:
        shapes = {f"{part}_data": (count, 784) for part, count in counts.items()}
        shapes |= {f"{part}_labels": (count, 1) for part, count in counts.items()}
        found = decode_mat(content, shapes)
        return [
            _split(
                1 - to_bits(upright(found[f"{part}_data"])),
                found[f"{part}_labels"][:, 0].astype(np.int64) - 1,
            )
            for part in counts
        ]

    train, validation, test = store.load(_CALTECH, decode)
    description = "Caltech-101 Silhouettes, 28x28, split 1 (Marlin), object = 1"
    return ImageDataset("caltech101", description, train, validation, test)


DIGITS_THRESHOLD = 7.2
"""Level (of 16) above which an enlarged pixel is ink: the holes of 8 and 9 stay open."""


def _enlarge(levels: Tensor) -> Tensor:
    """Enlarge 8x8 scans ``(N, 1, 8, 8)`` three times into the middle of 28x28, smoothly."""
    padded = torch.nn.functional.pad(levels, (1, 1, 1, 1))  # paper around the scan
    large = torch.nn.functional.interpolate(
        padded, scale_factor=3, mode="bicubic", align_corners=False
    )
    return large[..., 1:-1, 1:-1]


def read_digits(store: FileStore) -> ImageDataset:
    """The 1,797 scanned 8x8 digits of scikit-learn, enlarged to 28x28 and binarized.

    Split 1,197 / 300 / 300 after a shuffle by `SPLIT_SEED`, labeled 0 to 9. They come with
    scikit-learn, so that nothing is looked for in ``store``.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    scans = load_digits()
    levels = torch.from_numpy(scans.images).to(torch.float64).unsqueeze(1)
    images = (_enlarge(levels) > DIGITS_THRESHOLD).to(torch.uint8)
    digits = ImageSplit(images, torch.from_numpy(scans.target.astype(np.int64)))
    digits = digits.subset(len(digits), SPLIT_SEED)
    return ImageDataset(
        "digits",
        "digits of scikit-learn, scanned at 8x8, enlarged to 28x28 and binarized",
        train=digits.take(slice(1_197)),
        validation=digits.take(slice(1_197, 1_497)),
        test=digits.take(slice(1_497, None)),
    )
