"""Data sets: find, verify, download, decode, binarize, split."""

from pyro_vlae.data.datasets import COLOR_DATASET_NAMES, DATASET_NAMES, load_dataset
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError
from pyro_vlae.data.split import ImageDataset, ImageSplit

__all__ = [
    "COLOR_DATASET_NAMES",
    "DATASET_NAMES",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetNotFoundError",
    "ImageDataset",
    "ImageSplit",
    "load_dataset",
]
