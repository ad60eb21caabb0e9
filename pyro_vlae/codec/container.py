"""The file format of compressed images: a header, the coded bits, and a checksum.

| bytes | content |
|---|---|
| 4 | ``VLAE`` |
| 1 | version of the format |
| 1 | method |
| 8 | hash of the weights |
| 8 | hash of the images, if they are coded without loss |
| any | numbers and texts of the method, each list with its length |
| any | the coded bits, 32-bit words in little-endian order |
| 4 | CRC-32 of everything before |
"""

import platform
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from types import MethodType
from typing import Any

import numpy as np
import torch
from pyro.distributions import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vlae.reproducible import hash_module
from pyro_vlae.transforms import MeanOnlyAutoregressive, SpatialMeanOnlyAutoregressive
from pyro_vlae.transforms.tensors import leaves

MAGIC, VERSION = b"VLAE", 1
FIXED = struct.Struct("<4sBB8s8s")
METHODS = {1: "lossless", 2: "lossy"}
_MEAN_ONLY = (MeanOnlyAutoregressive, SpatialMeanOnlyAutoregressive)
Words = np.ndarray[Any, np.dtype[np.uint32]]


class CodecError(ValueError):
    """A model that cannot code images, or a file that cannot be decoded exactly."""


@dataclass(frozen=True)
class Container:
    """The content of a compressed file.

    Attributes:
        method: ``"lossless"`` or ``"lossy"``.
        weights: `fingerprint` of model and guide, 8 bytes.
        images: `images_digest`, 8 bytes; zeros for a lossy file.
        numbers: what the method needs to decode the words, none negative.
        texts: likewise.
        words: the coded bits, ``uint32``.
    """

    method: str
    weights: bytes
    images: bytes
    numbers: tuple[int, ...]
    texts: tuple[str, ...]
    words: Words

    def pack(self) -> bytes:
        """The bytes of the file."""
        (method,) = (code for code, name in METHODS.items() if name == self.method)
        text = "\n".join(self.texts).encode()
        content = (
            FIXED.pack(MAGIC, VERSION, method, self.weights, self.images)
            + b"".join(_varint(n) for n in (len(self.numbers), *self.numbers, len(text)))
            + text
            + self.words.astype("<u4").tobytes()
        )
        return content + struct.pack("<I", zlib.crc32(content))

    @classmethod
    def unpack(cls, data: bytes) -> "Container":
        """Read the bytes of a file.

        Raises:
            CodecError: they are not such a file, of another version, truncated, or altered.
        """
        if data[:4] != MAGIC:
            raise CodecError(
                "this is not a file of compressed images: it starts with "
                f"{data[:4]!r}, not {MAGIC!r}"
            )
        if len(data) < FIXED.size + 4 or zlib.crc32(data[:-4]) != int.from_bytes(
            data[-4:], "little"
        ):
            raise CodecError(
                f"the compressed file ({len(data)} bytes) is truncated or altered: its checksum "
                "does not match; copy it again from its source"
            )
        _, found, method, weights, images = FIXED.unpack_from(data)
        if found != VERSION or method not in METHODS:
            raise CodecError(
                f"the compressed file has version {found} and method {method}, this package reads "
                f"version {VERSION} and methods {sorted(METHODS)}: use the package that wrote it"
            )
        try:
            count, position = _read_varint(data, FIXED.size)
            numbers = []
            for _ in range(count + 1):
                number, position = _read_varint(data, position)
                numbers.append(number)
            end = position + numbers.pop()
            texts = tuple(data[position:end].decode().split("\n"))
            words = np.frombuffer(data[end:-4], "<u4").astype(np.uint32)
        except (IndexError, ValueError) as error:
            raise CodecError(f"the header of the compressed file is invalid ({error})") from error
        return cls(METHODS[method], weights, images, tuple(numbers), texts, words)


def _varint(number: int) -> bytes:
    """A nonnegative integer in groups of 7 bits, lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at a position, and the position after it."""
    number = shift = 0
    while data[position] > 127:
        number |= (data[position] & 127) << shift
        position, shift = position + 1, shift + 7
    return number | data[position] << shift, position + 1


def fingerprint(*programs: Any) -> bytes:
    """Hash classes, parameters, and buffers (masks and orders, too) of models and guides.

    Also settings of the transforms of a flow, and modules of which only a method is held.
    """
    digest = blake2b(digest_size=8)
    for module in programs:
        if isinstance(module, nn.Module):  # a function has nothing to hash
            hash_module(digest, module)
            for part in module.modules():
                _hash_settings(digest, part)
    return digest.digest()


def _hash_settings(digest: blake2b, part: nn.Module) -> None:
    for name, value in sorted(vars(part).items()):
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            digest.update(f"{name}={value.__name__} ".encode())
            hash_module(digest, value.__self__)
    held = vars(part).get("transforms", ())
    for transform in held if isinstance(held, list | tuple) else ():
        for leaf in leaves(transform) if isinstance(transform, Transform) else ():
            if isinstance(leaf, _MEAN_ONLY):
                continue  # their settings are in their buffers
            _hash_attributes(digest, leaf)


def _hash_attributes(digest: blake2b, transform: Any) -> None:
    """Add numbers and texts of a transform, and of transforms that it holds."""
    digest.update(f"{type(transform).__qualname__} ".encode())
    held = {**vars(transform), **getattr(transform, "_modules", {})}
    for name, value in sorted(held.items()):
        if name.startswith("_") or name == "training":
            continue
        entries = value if isinstance(value, tuple) else (value,)
        if all(isinstance(entry, int | float | str) for entry in entries):
            digest.update(f"{name}={value!r} ".encode())
        elif isinstance(value, ConditionalTransform):
            _hash_attributes(digest, value)


def images_digest(x: Tensor) -> bytes:
    """Hash the values and the shape of images."""
    digest = blake2b(str(tuple(x.shape)).encode(), digest_size=8)
    x = x + 0.0  # -0.0 and 0.0 are equal, but differ in their bits
    digest.update(x.contiguous().numpy().astype("<f4").data)
    return digest.digest()


def environment() -> tuple[str, str, str]:
    """What rounding depends on: versions of torch and constriction, and the kind of CPU."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}", f"constriction {version('constriction')}", f"CPU {cpu}"
