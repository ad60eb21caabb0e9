"""Decoders of published file formats: IDX, text (.amat), CIFAR's records, and MATLAB (.mat).

They expect the content of verified files and do not check it for damage.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from pyro_vlae.data.errors import DatasetError

Array = npt.NDArray[Any]


def decode_idx(content: bytes) -> Array:
    """Decode an IDX file of unsigned bytes, the format of MNIST.

    The header consists of two zero bytes, the type, the number of dimensions, and each dimension as
    a big-endian 32-bit integer.
    """
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def decode_amat(content: bytes, height: int, width: int) -> Array:
    """Decode the text of static MNIST, two bytes per pixel, a line per image: ``(N, H, W)``."""
    pixels = np.frombuffer(content, np.uint8)[::2] - np.uint8(ord("0"))
    return pixels.reshape(-1, height, width)


def decode_cifar(content: bytes) -> tuple[Array, Array]:
    """Decode CIFAR-10's records, a label byte and 3072 pixels: ``(N, 3, 32, 32)`` and ``(N,)``."""
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def decode_mat(content: bytes, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Decode the matrices named in ``shapes`` of a MATLAB file (version 5 to 7.2).

    Raises:
        DatasetError: a matrix is missing or has the wrong shape.
    """
    found = scipy.io.loadmat(io.BytesIO(content), variable_names=list(shapes))
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            what = f"has shape {found[name].shape}" if name in found else "is missing"
            raise DatasetError(f"variable {name!r} of the MATLAB file {what}; expected {shape}")
    return {name: found[name] for name in shapes}


def upright(rows: Array, height: int, width: int) -> Array:
    """Turn MATLAB's column-major images, rows of ``(N, H * W)``, into ``(N, H, W)``."""
    return rows.reshape(-1, width, height).swapaxes(1, 2)


def to_bytes(intensity: Array) -> Array:
    """Round intensities in [0, 1] to bytes 0 to 255.

    Raises:
        DatasetError: an intensity is outside [0, 1] by more than rounding explains.
    """
    low, high = float(intensity.min()), float(intensity.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise DatasetError(f"the intensities run from {low:g} to {high:g}; expected 0 to 1")
    return np.rint(255 * np.clip(intensity, 0, 1)).astype(np.uint8)
