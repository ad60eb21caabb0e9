"""The reader of CIFAR-10, in color.

References:
    Learning multiple layers of features from tiny images, Krizhevsky, 2009.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from pyro_vlae.data.files import FileStore, PublishedFile
from pyro_vlae.data.formats import decode_cifar
from pyro_vlae.data.split import ImageDataset, ImageSplit
from pyro_vlae.data.values import BYTES

_ARCHIVE = PublishedFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
    served_name="cifar-10-binary.tar.gz",
    served_checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
)


def _batch(name: str, digest: str) -> PublishedFile:
    return PublishedFile("cifar10", f"{name}.bin", f"sha256:{digest}", archive=_ARCHIVE)


_TRAIN = [
    _batch("data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    _batch("data_batch_2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    _batch("data_batch_3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    _batch("data_batch_4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    _batch("data_batch_5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
]
_TEST = [_batch("test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b")]


def read_cifar10(store: FileStore) -> ImageDataset:
    """CIFAR-10 in 256 levels: 45,000 / the last 5,000 of train / 10,000, labeled 0 to 9.

    Read from the binary version's six files or from its archive, whichever is there. The archive is
    verified when it is downloaded, and file by file whenever it is read.
    """

    def part(files: Sequence[PublishedFile]) -> ImageSplit:
        batches = [store.load(file, partial(decode_cifar, count=10_000)) for file in files]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return ImageSplit(
            torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), values=BYTES
        )

    train = part(_TRAIN)
    return ImageDataset(
        "cifar10",
        "CIFAR-10 in color, 32x32, 256 levels; the last 5,000 train images are held out for "
        "validation",
        train=train.take(slice(45_000)),
        validation=train.take(slice(45_000, None)),
        test=part(_TEST),
    )
