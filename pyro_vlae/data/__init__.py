"""Data sets: finding, downloading, verifying, and decoding files; splits and batches."""

from pyro_vlae.data.datasets import dataset_names, load_dataset, register_dataset
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError
from pyro_vlae.data.piano_rolls import PIANO_ROLLS
from pyro_vlae.data.split import ImageDataset, ImageSplit
from pyro_vlae.data.values import BINARY, BYTES, INTENSITIES, Values

__all__ = [
    "BINARY",
    "BYTES",
    "INTENSITIES",
    "PIANO_ROLLS",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetNotFoundError",
    "ImageDataset",
    "ImageSplit",
    "Values",
    "dataset_names",
    "load_dataset",
    "register_dataset",
]
