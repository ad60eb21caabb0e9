"""Estimates of the images scored so far, kept in a file so that scoring can go on later."""

import hashlib
import io
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pyro_vlae.infer.distributed import rank, world_size
from pyro_vlae.reproducible import hash_module, hash_tensor, open_npz, write_atomically

_SECONDS = 2.0  # between two versions of the file
_log = logging.getLogger(__name__)


class PartialScores:
    """The columns of finished images, of a call that is determined by a fingerprint.

    Args:
        path: the file; None to keep nothing. One that is damaged, or of another call, is replaced.
        fingerprint: digest of everything that the estimates depend on.
        rows: number of estimates per image.

    Attributes:
        columns: blocks of estimates ``(rows, b)`` in the order of the images.
        num_samples: codes per image; 0 before the first block.
    """

    def __init__(self, path: Path | None, fingerprint: str, rows: int) -> None:
        self.columns: list[Tensor] = []
        self.num_samples = 0
        self._path, self._fingerprint, self._rows = path, fingerprint, rows
        self._saved_at = -math.inf
        self._unsaved = False
        if path is not None and path.exists():
            self._read(path)

    @property
    def count(self) -> int:
        """Number of finished images."""
        return sum(block.shape[1] for block in self.columns)

    def add(self, block: Tensor, num_samples: int) -> None:
        """Add the estimates of the next images, and write the file now and then."""
        self.columns.append(block)
        self.num_samples = num_samples
        self._unsaved = True
        if monotonic() - self._saved_at >= _SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is not in the file yet, atomically."""
        if self._path is None or not self._unsaved:
            return
        buffer = io.BytesIO()
        columns = torch.cat(self.columns, 1).numpy()
        found, count = self._fingerprint, self.num_samples
        np.savez(buffer, columns=columns, fingerprint=found, num_samples=count)
        write_atomically(self._path, buffer.getvalue())
        self._unsaved, self._saved_at = False, monotonic()

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        try:
            with open_npz(io.BytesIO(content)) as file:
                found, count = str(file["fingerprint"]), int(file["num_samples"])
                columns = torch.from_numpy(file["columns"])
            fits = columns.ndim == 2 and len(columns) == self._rows
            if not fits or columns.dtype != torch.float64:
                raise ValueError(f"columns of shape {tuple(columns.shape)}, {columns.dtype}")
        except Exception as error:  # of many kinds, from zipfile, zlib and NumPy
            _log.warning("%s is damaged (%s): scoring starts again", path, error)
            return
        if found == self._fingerprint:
            self.columns, self.num_samples = [columns], count
        else:
            _log.warning("%s is of other weights, images or settings: scoring starts again", path)


def file_of_rank(path: Path) -> Path:
    """The file of this rank; that of a process without others is `path` itself."""
    return path if world_size() == 1 else path.with_suffix(f".{rank()}{path.suffix}")


def fingerprint(programs: Iterable[Any], tensors: Iterable[Tensor], *settings: Any) -> str:
    """Digest of programs, which must be modules, of tensors, and of settings.

    A module's digest is that of its classes, parameters, buffers, and public attributes that are
    numbers or texts. Entries of Pyro's parameter store count if no module holds them.

    Raises:
        ValueError: a program is no module.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    held = set()
    for program in programs:
        if not isinstance(program, nn.Module):
            raise ValueError(
                f"resume_file requires a model and a guide that are nn.Modules, got {program!r}: "
                "whether a function is the one that the file was written with cannot be checked. "
                "Make it the forward method of an nn.Module, or leave resume_file out"
            )
        hash_module(digest, program)
        for part in program.modules():
            for name, value in sorted(vars(part).items(), key=lambda item: item[0]):
                # Private attributes may change when the module is called. Modules are scored in
                # evaluation mode, whatever mode they are in now.
                if not name.startswith("_") and name != "training" and _is_plain(value):
                    digest.update(f"{name} {value!r} ".encode())
        held |= {id(parameter) for parameter in program.parameters()}
    for name, parameter in sorted(pyro.get_param_store().named_parameters()):
        # The names of a module's parameters differ between processes.
        if id(parameter) not in held:
            digest.update(f"{name} ".encode())
            hash_tensor(digest, parameter)
    for tensor in tensors:
        hash_tensor(digest, tensor)
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether the ``repr`` of a value tells it from others, in any process."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)
