"""What steers a network's forward pass besides its weights, to notice that it has changed."""

import hashlib
import weakref
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.graph import hooked

# Attributes of modules that do not steer a forward pass.
_BOOKKEEPING = {*vars(nn.Module()), "_checked", "_compiled_call_impl"} - {"training"}
_LIBRARIES = ("torch", "pyro", "pyro_vlae", "numpy", "builtins")


def fingerprint(network: nn.Module) -> tuple[Any, ...]:
    """Attributes, hooks, masks, and code of all modules, to be compared; weights do not count.

    Code means methods outside of the libraries, and the variables and functions that they name.
    """
    return tuple(
        (
            # Unlike an id, not to be taken by a later module.
            weakref.ref(module),
            type(module),
            hooked(module),
            _version(module.mask) if isinstance(module, CausalConv2d) else None,
            tuple(
                (name, _plain(value))
                for name, value in vars(module).items()
                if name not in _BOOKKEEPING
            ),
            _class(type(module), ()),
        )
        for module in network.modules()
    )


def _plain(value: Any, outer: tuple[Any, ...] = ()) -> Any:
    """A hashable stand-in for a value, which it does not keep alive.

    Args:
        value: the value.
        outer: the objects that hold it.
    """
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return value
    if isinstance(value, tuple | list | set | frozenset):
        return (type(value), *(_plain(part, outer) for part in value))
    if isinstance(value, dict):
        return tuple((_plain(key, outer), _plain(part, outer)) for key, part in value.items())
    if isinstance(value, slice | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Tensor):
        return _version(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes()).digest()
    if any(value is one for one in outer) or isinstance(value, nn.Module | ModuleType):
        return id(value)
    outer = (*outer, value)
    if isinstance(value, type):
        return id(value), _class(value, outer)
    if isinstance(value, FunctionType):
        return _function(value, outer)
    if isinstance(value, MethodType):
        return _plain((value.__self__, value.__func__), outer)
    if isinstance(value, partial):
        return _plain((value.func, value.args, value.keywords), outer)
    if callable(value) and not hasattr(value, "__dict__"):  # built in
        return id(value)
    slots = [name for kind in type(value).__mro__ for name in _names(kind)]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return id(value), _plain({**held, **getattr(value, "__dict__", {})}, outer)


def _class(kind: type, outer: tuple[Any, ...]) -> tuple[Any, ...]:
    """A class's methods and constants, and those of its bases, unless a library defines them."""
    values = [
        (name, getattr(value, "fget", None) or getattr(value, "__func__", value))
        for base in kind.__mro__
        if not _in_library(base)
        for name, value in vars(base).items()
        if isinstance(value, FunctionType) or not name.startswith("__")
    ]
    return tuple((name, _plain(value, outer)) for name, value in values)


def _function(function: FunctionType, outer: tuple[Any, ...]) -> Any:
    """A function's code, and the variables that it names."""
    if _in_library(function):
        return id(function)
    names = _global_names(function.__code__)
    known = function.__globals__
    cells = [_content(cell) for cell in function.__closure__ or ()]
    named = {name: known[name] for name in names if name in known}
    values = [function.__defaults__, function.__kwdefaults__, cells, named]
    return (function.__code__, *(_plain(value, outer) for value in values))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None


def _global_names(code: CodeType) -> tuple[str, ...]:
    """The names in a function's code that may be global, also those in functions inside it."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return (*code.co_names, *(name for part in inner for name in _global_names(part)))


def _names(kind: type) -> tuple[str, ...]:
    """The slots of a class itself."""
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _in_library(value: Any) -> bool:
    return str(value.__module__).split(".")[0] in _LIBRARIES


def _version(tensor: Tensor) -> tuple[int, int]:
    """What differs if a tensor was replaced, or changed in place."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version
