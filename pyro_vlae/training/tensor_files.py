"""Tensors of modules to and from safetensors files: tied ones once, checked before use."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor, nn

from pyro_vlae.reproducible import write_atomically

_ALIASES = "aliases"  # metadata key: which names stand for a tensor stored under another


class CheckpointError(RuntimeError):
    """A checkpoint or weights file cannot be written, read, or used with these modules."""


class NonFiniteError(CheckpointError):
    """A tensor that was to be saved holds NaN or infinite values."""


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of all modules, named ``<module>.<place in the module>``.

    Raises:
        CheckpointError: a module keeps something other than tensors in its state.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, value in module.state_dict().items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"the state of {prefix!r} holds {name!r}, a {type(value).__name__}: only "
                    "tensors can be stored; make it a buffer or leave it out of the state"
                )
            tensors[f"{prefix}.{name}"] = value
    return tensors


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise :class:`NonFiniteError`, naming the first tensor with a NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NonFiniteError(
                f"{what} {name!r} holds NaN or infinite values: nothing was saved, earlier files "
                "are untouched; go back to the last checkpoint and lower the learning rate"
            )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write one safetensors file, in one move, and have it on the disk on return.

    Names of one and the same tensor are stored once and named in the metadata.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        OSError: the file cannot be written.
    """
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        place = _place(tensor)
        if tensor.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        # A copy, because views of one storage that overlap in part cannot be stored.
        stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
    content = encode(stored, {**(metadata or {}), _ALIASES: json.dumps(aliases)})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file written by :func:`write_tensors` into CPU tensors.

    Returns:
        The tensors, tied names included, and the metadata.

    Raises:
        CheckpointError: the file is missing, truncated or corrupt.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    damaged = f"{path} is truncated or corrupt ({len(content):,} bytes): restore it from a copy"
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{damaged}, or train again; its checksum is not the recorded one")
    try:
        tensors = decode(content)
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
        aliases = json.loads(header.pop(_ALIASES, "{}"))
        tensors.update({name: tensors[source] for name, source in aliases.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{damaged}, or download it again ({error})") from error
    return tensors, header


def check_fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path, same_dtype: bool
) -> None:
    """Raise :class:`CheckpointError` unless the tensors fit, by name, shape and sharing.

    Args:
        found: what the file holds.
        expected: what the modules hold.
        source: the file or folder, for the message.
        same_dtype: whether precision must agree too.
    """
    problems = [f"lacks {name!r}" for name in expected if name not in found]
    problems += [f"has {name!r}, which the modules lack" for name in found if name not in expected]
    for name, tensor in expected.items():
        value = found.get(name)
        if value is None:
            continue
        if value.shape != tensor.shape:
            problems.append(
                f"has {name!r} of shape {tuple(value.shape)}, the modules {tuple(tensor.shape)}"
            )
        elif value.dtype != tensor.dtype and (
            same_dtype or not (value.is_floating_point() and tensor.is_floating_point())
        ):
            problems.append(f"has {name!r} as {value.dtype}, the modules {tensor.dtype}")
    owners: dict[tuple[object, ...], str] = {}
    for name, tensor in expected.items():
        owner = owners.setdefault(_place(tensor), name) if tensor.numel() else name
        if owner != name and name in found and owner in found:
            same = found[name].shape == found[owner].shape and found[name].equal(found[owner])
            if not same:
                problems.append(f"has different {name!r} and {owner!r}, one tensor in the modules")
    if problems:
        more = f"; and {len(problems) - 4} more differences" if len(problems) > 4 else ""
        raise CheckpointError(
            f"{source} belongs to another architecture: it {'; it '.join(problems[:4])}{more}. "
            "Build the modules with the options that the file was made with. Nothing was loaded."
        )


def copy_into(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors that passed :func:`check_fit` into the modules, in place."""
    for prefix, module in modules.items():
        start = prefix + "."
        part = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        module.load_state_dict(part)


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two names of one tensor: same memory, seen in the same way."""
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )
