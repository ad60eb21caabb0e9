"""Half precision and compilation of the networks in a model and its guide.

The class attribute ``networks`` of a module, e.g. ``networks = ("encoder",)``, names the submodules
that `fit` may compile and run in bfloat16; ``float32_networks`` names those that it may compile but
that need full precision. Everything else (heads, log-probabilities) is left unchanged.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "bf16", "fp32")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``"bf16"`` or ``"fp32"``; ``"auto"`` is bf16 on devices with instructions for it.

    Raises:
        ValueError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp32":
        return precision
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":  # without these instructions bfloat16 is many times slower
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, check, bool)() for check in checks)
        if precision == "bf16" and not fast:
            warnings.warn(
                "precision bf16 is many times slower than fp32 on this CPU, which has no "
                "instructions for it: use precision auto or fp32",
                UserWarning,
                stacklevel=2,
            )
    return "bf16" if fast or precision == "bf16" else "fp32"


def declared_networks(modules: Iterable[nn.Module], *attributes: str) -> list[nn.Module]:
    """The submodules named in class attributes such as ``networks``, each once."""
    found = [
        getattr(owner, name)
        for module in modules
        for owner in module.modules()
        for attribute in attributes
        for name in getattr(type(owner), attribute, ())
    ]
    return list(dict.fromkeys(network for network in found if isinstance(network, nn.Module)))


class HalfPrecision:
    """A reusable context in which the declared networks of modules run under bfloat16 autocast.

    Their outputs are cast back to float32; names, parameters, and all other code are unchanged.
    Copy modules only outside the context: a copy made inside would keep calling the originals.

    Args:
        modules: model and guide; they declare networks as described above.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.networks = declared_networks(modules, "networks")
        # Made once: compiled code is specialized to the functions that it calls.
        self._forwards = [_half_precision_forward(network) for network in self.networks]
        self._previous: list[Any] = []

    def __enter__(self) -> None:
        self._previous = [vars(network).get("forward") for network in self.networks]
        for network, forward in zip(self.networks, self._forwards, strict=True):
            vars(network)["forward"] = forward

    def __exit__(self, *error: object) -> None:
        for network, previous in zip(self.networks, self._previous, strict=True):
            del vars(network)["forward"]
            if previous is not None:
                vars(network)["forward"] = previous


@contextmanager
def compiled(modules: Iterable[nn.Module], **options: Any) -> Iterator[None]:
    """Compile the declared networks of modules, in place, for the duration of a ``with`` block.

    Args:
        modules: model and guide.
        **options: arguments of ``torch.compile``.
    """
    networks = declared_networks(modules, "networks", "float32_networks")
    networks = [network for network in networks if network._compiled_call_impl is None]
    for network in networks:
        network.compile(**options)
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None


def _to_float32(out: Any) -> Any:
    """Cast a network's output, a tensor or a tuple or list of tensors, from bfloat16."""
    if isinstance(out, tuple | list):
        return type(out)(map(_to_float32, out))
    return out.float() if out.dtype == torch.bfloat16 else out


def _half_precision_forward(network: nn.Module) -> Callable[..., Tensor]:
    forward = network.forward
    device = next((p.device.type for p in network.parameters()), "cpu")

    def half_precision_forward(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            out = forward(*args, **kwargs)
        return _to_float32(out)

    return half_precision_forward
