"""Registering a module's parameters with Pyro so that training cannot silently miss them.

Pyro's parameter store is one global dictionary. Two modules that use the same names in it would
leave the second one untrained without a word, and so would a tensor that the store had to copy.
Every instance therefore gets a name of its own, and each registration checks that the store holds
the module's very tensors.
"""

from itertools import count
from weakref import WeakKeyDictionary

import pyro
from torch import nn

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = count(1)


class RegistrationError(RuntimeError):
    """The parameter store holds another tensor than the module under this module's name."""


def register_parameters(module: nn.Module) -> None:
    """Make the trainable parameters of a module known to Pyro; call it first in a model or guide.

    Raises:
        RegistrationError: the store holds another tensor under a parameter's name; training would
            move that one and leave the module as it is.
    """
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
    prefix = _names[module]
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        stored = pyro.param(f"{prefix}$$${name}", parameter)
        if stored is not parameter:
            reason = (
                "the parameter is not contiguous in memory, so the store made a copy: leave "
                "weights contiguous and convert activations instead"
                if not parameter.is_contiguous()
                else "the store was filled by something else, or a handler replaces parameters: "
                "call pyro.clear_param_store() first, and load weights with load_state_dict"
            )
            raise RegistrationError(
                f"Pyro's parameter store holds another tensor than the module for parameter "
                f"{name!r} of {prefix}; it would never be trained. Probable cause: {reason}."
            )
