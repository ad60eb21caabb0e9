"""What every model and guide does first: register its parameters, and refuse an empty batch.

Pyro's parameter store is one global dictionary. If two modules use the same names in it, the second
one is silently not trained, and neither is any tensor that the store had to copy. Therefore every
instance gets its own name, and each registration checks that the store holds the module's tensors.
"""

from itertools import count
from weakref import WeakKeyDictionary, finalize

import pyro
from torch import nn

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = count(1)


class RegistrationError(RuntimeError):
    """Pyro's parameter store does not hold the module's own tensor."""


def register_parameters(module: nn.Module) -> None:
    """Register a module's trainable parameters with Pyro; call this first in a model or guide.

    Raises:
        RegistrationError: the store holds a different tensor under a parameter's name; training
            would update that tensor instead of the module's.
    """
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
        finalize(module, _forget, _names[module]).atexit = False
    prefix = _names[module]
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        pyro.param(f"{prefix}$$${name}", parameter)
    # Read from the store itself, because a handler may wrap what pyro.param returns.
    held = dict(pyro.get_param_store().named_parameters())
    for name, parameter in trainable.items():
        if held.get(f"{prefix}$$${name}") is not parameter:
            reason = (
                "the parameter is not contiguous in memory, so the store made a copy: leave "
                "weights contiguous and convert activations instead"
                if not parameter.is_contiguous()
                else "the store was filled by something else: call pyro.clear_param_store() "
                "first, and load weights with load_state_dict"
            )
            raise RegistrationError(
                f"Pyro's parameter store holds another tensor than the module for parameter "
                f"{name!r} of {prefix}; it would never be trained. Probable cause: {reason}."
            )


def check_batch(size: int) -> None:
    """Raise a ValueError unless a batch holds an image; Pyro's plates only say "zero"."""
    if size < 1:
        raise ValueError(f"expected at least one image, got a batch of {size}")


def _forget(prefix: str) -> None:
    """Remove the parameters of a deleted module from the store."""
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(f"{prefix}$$$")]:  # noqa: SIM118
        del store[name]
