"""What steers a network's forward pass besides its weights, to notice that it has changed."""

import dis
import hashlib
import sys
import weakref
from argparse import Namespace
from functools import cache, lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.graph import hooked

# Attributes of modules that do not steer a forward pass.
_BOOKKEEPING = {*vars(nn.Module()), "_checked", "_compiled_call_impl"} - {"training"}
_PLAIN = (type(None), int, float, complex, str, bytes)


def fingerprint(network: nn.Module) -> tuple[Any, ...]:
    """Attributes, hooks, masks, and code of all modules, to be compared; weights do not count.

    Code means methods outside of libraries, and the variables and functions that they name.
    """
    walk = _Walk()
    return tuple(
        (
            # Unlike an id, not to be taken by a later module.
            weakref.ref(module),
            type(module),
            hooked(module),
            _version(module.mask) if isinstance(module, CausalConv2d) else None,
            tuple(
                (name, walk.add(value))
                for name, value in vars(module).items()
                if name not in _BOOKKEEPING
            ),
            walk.add(type(module)),
        )
        for module in network.modules()
    )


class _Walk:
    """Makes hashable stand-ins for values, which they do not keep alive."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}  # kept alive here, as ids are used again

    def add(self, value: Any) -> Any:
        """The stand-in of a value; of one that was added before, its number."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, slice | torch.dtype | torch.device):
            return repr(value)
        if isinstance(value, Tensor):
            return _version(value)
        if isinstance(value, nn.Module | ModuleType):
            return id(value)
        if id(value) in self._seen:
            return f"number {self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes()).digest()
        if isinstance(value, tuple | list | set | frozenset):
            return (type(value), *map(self.add, value))
        if isinstance(value, dict):
            return tuple((self.add(key), self.add(part)) for key, part in value.items())
        if isinstance(value, type):
            return id(value), self._class(value)
        if isinstance(value, FunctionType):
            return id(value) if _in_library(value.__module__) else self._function(value)
        if isinstance(value, MethodType):
            return self.add(value.__self__), self.add(value.__func__)
        if isinstance(value, partial):
            return self.add(value.func), self.add(value.args), self.add(value.keywords)
        return id(value), *self._attributes(value)

    def _attributes(self, value: Any) -> list[Any]:
        """The attributes of an object, except those of Python's own classes, such as loggers."""
        own = _package(type(value).__module__) not in sys.stdlib_module_names
        if not own and not isinstance(value, SimpleNamespace | Namespace):
            return []
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held.update(getattr(value, "__dict__", {}))
        return [(name, self.add(part)) for name, part in held.items()]

    def _class(self, kind: type) -> tuple[Any, ...]:
        """A class's methods and constants, and those of its bases, unless a library has them."""
        return tuple(
            (name, self.add(getattr(value, "fget", None) or getattr(value, "__func__", value)))
            for base in kind.__mro__
            if not _in_library(base.__module__)
            for name, value in vars(base).items()
            if isinstance(value, FunctionType) or not name.startswith("__")
        )

    def _function(self, function: FunctionType) -> tuple[Any, ...]:
        """A function's code, and the variables that it names."""
        known = function.__globals__
        named = [known[name] for name in _global_names(function.__code__) if name in known]
        cells = [_content(cell) for cell in function.__closure__ or ()]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return (function.__code__, *map(self.add, (*defaults, *cells, *named)))


@lru_cache(10_000)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """The global variables that a function's code reads, also in functions inside it."""
    read = [i.argval for i in dis.get_instructions(code) if i.opname in _READS]
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return tuple(dict.fromkeys((*read, *(name for part in inner for name in _global_names(part)))))


_READS = ("LOAD_GLOBAL", "LOAD_NAME")


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _package(module: str | None) -> str:
    return str(module).partition(".")[0]


@cache
def _in_library(module: str | None) -> bool:
    """Whether code of this module is Python's own, or installed, and so does not change."""
    if _package(module) in (*sys.stdlib_module_names, "pyro_vlae") and module != "__main__":
        return True
    file = getattr(sys.modules.get(str(module)), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _version(tensor: Tensor) -> tuple[int, int]:
    """What differs if a tensor was replaced, or changed in place."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version
