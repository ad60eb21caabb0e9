"""Estimates of the images scored so far, kept in a file so that scoring can go on later."""

import hashlib
import io
import logging
import math
from collections.abc import Iterable
from functools import partial
from inspect import getattr_static
from pathlib import Path
from time import monotonic
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_vlae.infer.distributed import rank, world_size
from pyro_vlae.reproducible import hash_module, hash_tensor, open_npz, write_atomically

_SECONDS = 2.0  # between two versions of the file
_log = logging.getLogger(__name__)


class PartialScores:
    """The estimates of finished images, in a file that belongs to one call by its fingerprint.

    Args:
        path: the file; None for no file. One that is damaged, or of another call, is replaced.
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
        """Write what is not in the file yet, atomically.

        Raises:
            OSError: the file cannot be written the first time. Later, as estimates would be lost,
                there is only a warning, and the next call tries again.
        """
        if self._path is None or not self._unsaved:
            return
        buffer = io.BytesIO()
        columns = torch.cat(self.columns, 1).numpy()
        found, count = self._fingerprint, self.num_samples
        np.savez(buffer, columns=columns, fingerprint=found, num_samples=count)
        try:
            write_atomically(self._path, buffer.getvalue())
            self._unsaved = False
        except OSError as error:
            if self._saved_at == -math.inf:
                raise
            _log.warning("cannot save the scores of %d images: %s", self.count, error)
        self._saved_at = monotonic()

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        try:
            with open_npz(io.BytesIO(content)) as file:
                found, count = str(file["fingerprint"]), int(file["num_samples"])
                columns = torch.from_numpy(file["columns"])
            fits = columns.ndim == 2 and len(columns) == self._rows
            if not fits or columns.dtype != torch.float64:
                raise ValueError(f"columns of shape {tuple(columns.shape)}, {columns.dtype}")
        except Exception as error:  # of many kinds, from zipfile, zlib, and NumPy
            _log.warning("%s is damaged (%s): scoring starts again", path, error)
            return
        if found == self._fingerprint:
            self.columns, self.num_samples = [columns], count
        else:
            _log.warning("%s is of other weights, images, or settings: scoring starts again", path)


def file_of_rank(path: Path) -> Path:
    """The file of this rank; `path` itself if there is only one."""
    return path if world_size() == 1 else path.with_suffix(f".{rank()}{path.suffix}")


def fingerprint(programs: Iterable[Any], tensors: Iterable[Tensor], *settings: Any) -> str:
    """Digest of programs, which must be modules, of tensors, and of settings.

    A module's digest is that of its classes, parameters, buffers, and public attributes. Entries of
    Pyro's parameter store count if no module holds them.

    Raises:
        ValueError: a program is not a module, or holds a function that is not torch's or Pyro's.
    """
    digest = _Digest()
    digest.add("settings", repr(settings))
    for program in programs:
        if not isinstance(program, nn.Module):
            raise ValueError(
                f"resume_file requires a model and a guide that are nn.Modules, got {program!r}: "
                "no check can tell whether a function is the one that the file was written with. "
                "Make it the forward method of an nn.Module, or leave resume_file out"
            )
        digest.add("program", program)
    for name, parameter in sorted(pyro.get_param_store().named_parameters()):
        # The names of a module's parameters differ between processes.
        if id(parameter) not in digest.parameters:
            digest.add(name, parameter)
    for tensor in tensors:
        digest.add("", tensor)
    return digest.hash.hexdigest()


class _Digest:
    """A hash of values, with the content of modules and other objects.

    Attributes:
        hash: the hash.
        parameters: ids of the parameters of all modules so far.
    """

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.parameters: set[int] = set()
        self._seen: dict[int, tuple[int, Any]] = {}  # kept alive, as ids are used again

    def add(self, name: str, value: Any) -> None:
        """Add a value, which is called ``name`` in an error."""
        self.hash.update(f"{name} {type(value).__qualname__} ".encode())
        if isinstance(value, _PLAIN):
            self.hash.update(f"{value!r} ".encode())
        elif isinstance(value, Tensor):
            hash_tensor(self.hash, value)
        elif isinstance(value, tuple | list):
            for k, entry in enumerate(value):
                self.add(f"{name}[{k}]", entry)
        elif isinstance(value, set | frozenset):
            self.add(name, sorted(value, key=repr))
        elif isinstance(value, dict):
            for key in sorted(value, key=repr):
                self.add(f"{name}[{key!r}]", value[key])
        elif isinstance(value, type) or _is_library_function(value):
            self.hash.update(f"{value.__module__} {value.__qualname__} ".encode())
        elif isinstance(value, partial):
            self.add(name, [value.func, value.args, value.keywords])
        elif id(value) in self._seen:
            self.hash.update(f"{self._seen[id(value)][0]} ".encode())
        elif hasattr(value, "__dict__") and not isinstance(value, _FUNCTIONS):
            self._seen[id(value)] = len(self._seen), value
            self._add_object(name, value)
        else:
            raise ValueError(
                f"resume_file cannot compare {name}, {value!r}, with the one that the file was "
                "written with. Make it an nn.Module (a function: the forward method of one), or "
                "leave resume_file out"
            )

    def _add_object(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            for part in value.modules():
                self._seen.setdefault(id(part), (len(self._seen), part))
            self.parameters |= {id(parameter) for parameter in value.parameters()}
            hash_module(self.hash, value)
            for part in value.modules():
                self._add_attributes(type(part).__name__, part)
        elif isinstance(value, _InverseTransform):
            self.add(f"{name}.inv", value.inv)
        else:
            self._add_attributes(name, value)

    def _add_attributes(self, name: str, value: Any) -> None:
        # Private attributes of modules and transforms may change when they are called. Modules are
        # scored in evaluation mode, whatever mode they are in now.
        changing = isinstance(value, nn.Module | Transform)
        for key in sorted(vars(value)):
            if changing and (key == "training" or (key.startswith("_") and key != "_event_dim")):
                continue
            computed = isinstance(getattr_static(type(value), key, None), lazy_property)
            if changing and (computed or isinstance(vars(value)[key], Trace)):
                continue  # the trace of an autoguide's first run
            self.add(f"{name}.{key}", vars(value)[key])


_PLAIN = (type(None), int, float, str, bytes, slice, torch.dtype, torch.device)
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
_LIBRARIES = ("torch", "pyro", "pyro_vlae", "zuko")


def _is_library_function(value: Any) -> bool:
    """Whether this is a function of a library, such as ``torch.relu``, and no closure."""
    if isinstance(value, BuiltinFunctionType):  # a method is bound to an object, otherwise
        return isinstance(value.__self__, ModuleType | type | None)
    if not isinstance(value, FunctionType) or "<" in value.__qualname__:
        return False
    return str(value.__module__).split(".")[0] in _LIBRARIES
