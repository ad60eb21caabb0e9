"""One reader for each data set, with its files, image orientation, and splits.

To add a data set, list its files (`PublishedFile`), write a reader that returns an `ImageDataset`,
and pass it to `register_dataset`.

References:
    LeCun et al., "The MNIST Database of Handwritten Digits", 1998.
    Salakhutdinov and Murray, "On the Quantitative Analysis of Deep Belief Networks", 2008 (the
    static binarization of MNIST).
    Lake et al., "Human-Level Concept Learning through Probabilistic Program Induction", 2015
    (OMNIGLOT).
    Burda et al., "Importance Weighted Autoencoders", 2016, arXiv:1509.00519 (OMNIGLOT at 28x28).
    Marlin et al., "Inductive Principles for Restricted Boltzmann Machine Learning", 2010
    (Caltech-101 Silhouettes).
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009 (CIFAR-10).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vlae.data.files import FileStore, PublishedFile, read_verified
from pyro_vlae.data.formats import (
    Array,
    decode_amat,
    decode_cifar,
    decode_idx,
    decode_mat,
    to_bytes,
    upright,
)
from pyro_vlae.data.image_dataset import ImageDataset
from pyro_vlae.data.split import ImageSplit
from pyro_vlae.data.values import BINARY, BYTES, GRAY, INTENSITIES, Values

SPLIT_SEED = 0
"""Shuffles OMNIGLOT and the digits before they are split."""

_LAROCHELLE = "www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_STATIC_MNIST = [
    PublishedFile(
        "binarized_mnist",
        f"binarized_mnist_{part}.amat",
        f"sha256:{digest}",
        limit=2 * 784 * count,
        mirrors=(f"https://{_LAROCHELLE}", f"http://{_LAROCHELLE}"),
    )
    for part, count, digest in (
        ("train", 50_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        ("valid", 10_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        ("test", 10_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    )
]

_MNIST = [
    PublishedFile(
        "mnist",
        name,
        f"sha256:{digest}",
        limit,
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        gz_checksum=f"sha256:{gz_digest}",
    )
    for name, limit, digest, gz_digest in (
        (
            "train-images-idx3-ubyte",
            16 + 784 * 60_000,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte",
            8 + 60_000,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte",
            16 + 784 * 10_000,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte",
            8 + 10_000,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
]

_OMNIGLOT = PublishedFile(
    "omniglot",
    "chardata.mat",
    "md5:21ecaf34373511aa7691cf2e0802aa3d",
    limit=1 << 28,  # its size is not published
    mirrors=("https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/",),
)
_OMNIGLOT_REBUILT = PublishedFile(
    "omniglot",
    "omniglot_28_rebuilt.mat",
    "sha256:75fa4714b89191a362a536ea41ad7ab09822243fc937118fd64a5d47c520d3f6",
    limit=19_393_950,
)

_CALTECH = PublishedFile(
    "caltech101_silhouettes",
    "caltech101_silhouettes_28_split1.mat",
    "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
    limit=872_124,
    mirrors=("https://people.cs.umass.edu/~marlin/data/",),
)

_CIFAR_ARCHIVE = PublishedFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
    limit=170_052_171,
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
)
_CIFAR = [
    PublishedFile(
        "cifar10", f"{name}.bin", f"sha256:{digest}", limit=30_730_000, archive=_CIFAR_ARCHIVE
    )
    for name, digest in (
        ("data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    )
]


def _split(images: Array, labels: Array | None = None, values: Values = BINARY) -> ImageSplit:
    """Make a split of images ``(N, H, W)`` or ``(N, C, H, W)``."""
    # Copied, since decoded images can be read-only or strided views of a file's content.
    bytes_ = torch.from_numpy(np.array(images, order="C"))
    return ImageSplit(
        bytes_ if bytes_.dim() == 4 else bytes_.unsqueeze(1),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        values,
    )


def _cut(split: ImageSplit, *at: int) -> list[ImageSplit]:
    """Split the images at these indices."""
    return [split.take(slice(*part)) for part in pairwise((0, *at, None))]


def read_static_mnist(store: FileStore) -> ImageDataset:
    """MNIST as binarized by Salakhutdinov and Murray: 50,000 / 10,000 / 10,000.

    The test images are MNIST's, sorted by digit and otherwise in the published order, so their
    labels 0 to 9 are known if MNIST's file of test labels is on disk, and None otherwise.
    The training and validation images are an unpublished shuffle of MNIST's training images and
    have no labels.
    """
    labels = store.read_if_on_disk(_MNIST[-1])
    train, validation, test = (decode_amat(store.read(file), 28, 28) for file in _STATIC_MNIST)
    description = "static MNIST (fixed binarization of Salakhutdinov & Murray, files of Larochelle)"
    test_labels = None if labels is None else np.sort(decode_idx(labels))
    splits = _split(train), _split(validation), _split(test, test_labels)
    return ImageDataset("static-mnist", description, *splits)


def read_mnist(store: FileStore) -> ImageDataset:
    """MNIST as intensities: 50,000 / the last 10,000 of train / 10,000, labeled 0 to 9."""
    return ImageDataset.of_intensities("mnist", "dynamic MNIST", *_mnist(store, INTENSITIES))


def read_gray_mnist(store: FileStore) -> ImageDataset:
    """MNIST in 256 gray levels, split and labeled as by `read_mnist`."""
    description = "MNIST in 256 gray levels"
    return ImageDataset("gray-mnist", description, *_mnist(store, GRAY))


def _mnist(store: FileStore, values: Values) -> list[ImageSplit]:
    train, test = (
        _split(decode_idx(store.read(images)), decode_idx(store.read(labels)), values)
        for images, labels in (_MNIST[:2], _MNIST[2:])
    )
    return [*_cut(train, 50_000), test]


def read_omniglot(store: FileStore) -> ImageDataset:
    """OMNIGLOT at 28x28: 23,000 / 1,345 / 8,070 intensities, labeled by alphabet 0 to 49.

    The 24,345 published training images are shuffled by `SPLIT_SEED` and the last 1,345 held out;
    the test images are sorted by alphabet. Intensities are rounded to bytes. In each folder the
    original ``chardata.mat`` is preferred; if the rebuilt file was read, the description says so.
    """
    path, file = store.find(_OMNIGLOT, _OMNIGLOT_REBUILT)
    counts = {"": 24_345, "test": 8_070}
    shapes = {f"{part}data": (784, count) for part, count in counts.items()}
    shapes |= {f"{part}target": (50, count) for part, count in counts.items()}
    found = decode_mat(read_verified(path, file), shapes)
    train, test = (
        _split(  # images in columns, labels one-hot
            to_bytes(upright(found[f"{part}data"].T, 28, 28)),
            found[f"{part}target"].argmax(axis=0),
            INTENSITIES,
        )
        for part in counts
    )
    train, validation = _cut(train.subset(len(train), SPLIT_SEED), 23_000)
    version = "as published by Burda et al. (chardata.mat)"
    if file is _OMNIGLOT_REBUILT:
        version = f"rebuilt from the raw images ({file.name}), not the original chardata.mat"
    description = f"OMNIGLOT, 28x28, {version}"
    return ImageDataset.of_intensities("omniglot", description, train, validation, test)


def read_caltech101(store: FileStore) -> ImageDataset:
    """Caltech-101 Silhouettes at 28x28: 4,100 / 2,264 / 2,307, labeled 0 to 100.

    The images of the file are column-major, with the object 0; here the object is 1. The classes
    1 to 101 become labels 0 to 100.
    """
    counts = {"train": 4_100, "val": 2_264, "test": 2_307}
    shapes = {f"{part}_data": (count, 784) for part, count in counts.items()}
    shapes |= {f"{part}_labels": (count, 1) for part, count in counts.items()}
    found = decode_mat(store.read(_CALTECH), shapes)
    splits = (
        _split(
            1 - upright(found[f"{part}_data"], 28, 28),
            found[f"{part}_labels"][:, 0].astype(np.int64) - 1,
        )
        for part in counts
    )
    description = "Caltech-101 Silhouettes, 28x28, split 1 (Marlin), object = 1"
    return ImageDataset("caltech101", description, *splits)


def read_cifar10(store: FileStore) -> ImageDataset:
    """CIFAR-10 in 256 levels: 45,000 / the last 5,000 of train / 10,000, labeled 0 to 9.

    Read from the binary version's six files or from its archive, whichever is on disk.
    """

    def part(files: Sequence[PublishedFile]) -> ImageSplit:
        batches = [decode_cifar(store.read(file)) for file in files]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return _split(images, labels, BYTES)

    description = (
        "CIFAR-10 in color, 32x32, 256 levels; the last 5,000 train images are held out for "
        "validation"
    )
    splits = *_cut(part(_CIFAR[:5]), 45_000), part(_CIFAR[5:])
    return ImageDataset("cifar10", description, *splits)


DIGITS_THRESHOLD = 7.2
"""Gray level (0 to 16) above which an enlarged pixel is ink; the holes of 8 and 9 stay open."""


def _enlarge(levels: Tensor) -> Tensor:
    """Enlarge 8x8 scans ``(N, 1, 8, 8)`` three times, smoothly, into the middle of 28x28."""
    padded = F.pad(levels, (1, 1, 1, 1))  # a margin of paper around the scan
    return F.interpolate(padded, scale_factor=3, mode="bicubic")[..., 1:-1, 1:-1]


def read_digits(store: FileStore) -> ImageDataset:
    """The 1,797 scanned 8x8 digits of scikit-learn, enlarged to 28x28 and binarized.

    Split 1,197 / 300 / 300 after a shuffle by `SPLIT_SEED`, labeled 0 to 9. They come with
    scikit-learn, so ``store`` is not used.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    scans = load_digits()
    levels = torch.from_numpy(scans.images).to(torch.float64).unsqueeze(1)
    images = (_enlarge(levels) > DIGITS_THRESHOLD).to(torch.uint8)
    digits = ImageSplit(images, torch.from_numpy(scans.target.astype(np.int64)))
    digits = digits.subset(len(digits), SPLIT_SEED)
    description = "digits of scikit-learn, scanned at 8x8, enlarged to 28x28 and binarized"
    return ImageDataset("digits", description, *_cut(digits, 1_197, 1_497))
