"""Data sets: find, verify, download, decode, binarize, split."""

from pyro_vlae.data.datasets import COLOR_DATASET_NAMES, DATASET_NAMES, load_dataset
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError
from pyro_vlae.data.split import ImageDataset, ImageSplit
from pyro_vlae.data.values import BINARY, BYTES, INTENSITIES, Values

__all__ = [
    "BINARY",
    "BYTES",
    "COLOR_DATASET_NAMES",
    "DATASET_NAMES",
    "INTENSITIES",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetNotFoundError",
    "ImageDataset",
    "ImageSplit",
    "Values",
    "load_dataset",
]
