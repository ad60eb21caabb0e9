"""Data sets: finding, downloading, verifying, and decoding files; splits and batches."""

from pyro_vlae.data.datasets import dataset_names, load_dataset, register_dataset
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError
from pyro_vlae.data.image_dataset import ImageDataset
from pyro_vlae.data.image_files import load_images
from pyro_vlae.data.piano_rolls import PIANO_ROLLS
from pyro_vlae.data.split import ImageSplit
from pyro_vlae.data.values import BINARY, BYTES, GRAY, INTENSITIES, Values

__all__ = [
    "BINARY",
    "BYTES",
    "GRAY",
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
    "load_images",
    "register_dataset",
]
