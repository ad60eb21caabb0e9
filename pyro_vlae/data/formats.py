"""Decoders of the published file formats: IDX, text (.amat), CIFAR's records and MATLAB (.mat).

Each takes the uncompressed content of a file and the shape it must have, and returns ``uint8``
images or raises `FormatError` with one sentence on what was found in place of what was expected.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

Bytes = npt.NDArray[np.uint8]

_IDX_UNSIGNED_BYTE = 0x08
_IDX_KINDS = {1: "labels", 3: "images"}


class FormatError(ValueError):
    """The content of a file is not what its name promises."""


def decode_idx(content: bytes, shape: tuple[int, ...]) -> Bytes:
    """Decode an IDX file of unsigned bytes, the format of MNIST.

    The header is big-endian: two zero bytes, the type (8: unsigned byte), the number of
    dimensions, then each dimension as a 32-bit integer.

    Args:
        content: The uncompressed file.
        shape: What the file must hold: ``(N, H, W)`` for images, ``(N,)`` for labels.

    Raises:
        FormatError: Another kind of file (labels for images, not IDX at all), another shape, or
            fewer or more bytes than the header promises.
    """
    expected = int.from_bytes(bytes([0, 0, _IDX_UNSIGNED_BYTE, len(shape)]))
    wanted = _IDX_KINDS.get(len(shape), f"{len(shape)}-dimensional data")
    magic = int.from_bytes(content[:4])
    if magic != expected:
        found = f"its first bytes are {content[:12]!r}"
        if magic >> 8 == _IDX_UNSIGNED_BYTE:
            kind = _IDX_KINDS.get(magic & 0xFF, f"{magic & 0xFF}-dimensional data")
            found = f"it is an IDX file of {kind} (magic number {magic})"
        raise FormatError(f"{found}; an IDX file of {wanted} (magic number {expected}) is needed")
    header = 4 + 4 * len(shape)
    if len(content) < header:
        raise FormatError(f"it ends within its header ({len(content)} of {header} bytes)")
    found_shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if found_shape != shape:
        raise FormatError(f"its header says shape {found_shape}; expected {shape}")
    if len(content) - header != math.prod(shape):
        raise FormatError(
            f"it holds {len(content) - header} values; its header promises {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def decode_amat(content: bytes, shape: tuple[int, int, int]) -> Bytes:
    """Decode a text matrix of zeros and ones, the format of the static MNIST.

    One image a line, pixels row by row, separated by single spaces: two bytes a pixel.

    Args:
        content: The uncompressed file.
        shape: ``(N, H, W)``.

    Raises:
        FormatError: Another size than the shape needs, or a pixel that is neither 0 nor 1.
    """
    count, height, width = shape
    line = 2 * height * width
    if len(content) != count * line:
        raise FormatError(
            f"it holds {len(content)} bytes; {count} images of {height}x{width} as text take "
            f"{count * line} ({line} a line)"
        )
    text = np.frombuffer(content, np.uint8).reshape(count, line)
    pixels = text[:, ::2] - np.uint8(ord("0"))  # wraps below "0", so that one comparison will do
    if pixels.max(initial=0) > 1:
        bad = int(np.argmax(pixels.max(axis=1) > 1))
        raise FormatError(f"line {bad + 1} is not {height * width} values 0 or 1 and single spaces")
    return pixels.reshape(shape)


def decode_cifar(content: bytes, count: int) -> tuple[Bytes, Bytes]:
    """Decode the binary version of CIFAR-10.

    Records of a label byte (0 to 9), then 1024 bytes of red, green and blue each, row by row.

    Args:
        content: The uncompressed file.
        count: Number of records.

    Returns:
        Images ``(N, 3, 32, 32)`` and labels ``(N,)``.

    Raises:
        FormatError: Another size than so many records take, or a label above 9.
    """
    record = 1 + 3 * 32 * 32
    if len(content) != count * record:
        raise FormatError(
            f"it holds {len(content)} bytes; {count} images with labels take {count * record} "
            f"({record} each)"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, record)
    labels = records[:, 0]
    if labels.max(initial=0) > 9:
        raise FormatError(f"record {int(np.argmax(labels > 9)) + 1} has label {labels.max()} > 9")
    return records[:, 1:].reshape(count, 3, 32, 32), labels


def decode_mat(
    content: bytes, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, npt.NDArray[Any]]:
    """Decode numeric matrices of a MATLAB file (version 5 to 7.2).

    Args:
        content: The file.
        shapes: The variables to read, with the shape of each.

    Raises:
        FormatError: Not a MATLAB file, truncated, a variable missing, of another shape, or not
            of finite numbers.
    """
    try:
        variables = scipy.io.loadmat(io.BytesIO(content), variable_names=list(shapes))
    except Exception as error:  # the parser fails in many ways on a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise FormatError(f"it cannot be read as a MATLAB file ({reason})") from error
    for name, shape in shapes.items():
        if name not in variables:
            raise FormatError(f"it has no variable {name!r}")
        found = variables[name]
        if found.shape != shape:
            raise FormatError(f"variable {name!r} has shape {found.shape}; expected {shape}")
        if found.dtype.kind not in "uifb" or not np.isfinite(found).all():
            raise FormatError(f"variable {name!r} ({found.dtype}) is not all finite numbers")
    return {name: variables[name] for name in shapes}


def upright(rows: npt.NDArray[Any], height: int = 28, width: int = 28) -> npt.NDArray[Any]:
    """Turn MATLAB's column-major images, one a row ``(N, H * W)``, into ``(N, H, W)``."""
    return rows.reshape(-1, width, height).swapaxes(1, 2)


def to_levels(intensity: npt.NDArray[Any]) -> Bytes:
    """Round intensities in [0, 1] to the 256 gray levels.

    Raises:
        FormatError: An intensity outside [0, 1] by more than rounding explains.
    """
    low, high = float(intensity.min()), float(intensity.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise FormatError(f"its intensities run from {low:g} to {high:g}; expected 0 to 1")
    return np.rint(255 * np.clip(intensity, 0, 1)).astype(np.uint8)


def to_bits(pixels: npt.NDArray[Any]) -> Bytes:
    """Check that pixels are all 0 or 1 and return them as bytes.

    Raises:
        FormatError: Any other value.
    """
    bits = pixels.astype(np.uint8)
    if (bits != pixels).any() or bits.max(initial=0) > 1:
        raise FormatError("it has pixels other than 0 and 1")
    return bits
