"""Files of weights: parameters and buffers of modules in the safetensors format."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pyro_vlae.reproducible import write_atomically


class CheckpointError(RuntimeError):
    """A checkpoint or weights file cannot be written, read, or used with these modules."""


class NonFiniteError(CheckpointError):
    """A tensor to be saved holds NaN or infinite values."""


def save_weights(
    path: str | Path, modules: Mapping[str, nn.Module], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the parameters and buffers of modules to one safetensors file, atomically.

    Call it inside ``with optimizer.averaged():`` to export the averages.

    Args:
        path: the file.
        modules: e.g. ``{"model": model, "guide": guide}``.
        metadata: strings to store with them.

    Raises:
        CheckpointError: a parameter is not finite, or the file cannot be written.
    """
    try:
        write_atomically(Path(path), encode_weights(modules, metadata))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def load_weights(path: str | Path, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Copy a file of :func:`save_weights` into modules, in place.

    Floating-point tensors are converted to the precision of the modules.

    Returns:
        The metadata saved with it.

    Raises:
        CheckpointError: a missing, truncated or altered file, or another architecture; the modules
            are not changed then.
    """
    tensors = decode_weights(Path(path), read_bytes(Path(path)))
    check_fit(Path(path), tensors, modules)
    nn.ModuleDict(dict(modules)).load_state_dict(tensors, strict=False)  # tied names are absent
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Trainable parameters, each once, named as in files of weights."""
    named = nn.ModuleDict(dict(modules)).named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one once, under its first name."""
    state = nn.ModuleDict(dict(modules)).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    return {n: t for n, t in state.items() if first.setdefault(id(t), n) == n}


def encode_weights(
    modules: Mapping[str, nn.Module], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Parameters and buffers as the content of a safetensors file; parameters must be finite."""
    check_finite(named_parameters(modules))
    # Copies, because safetensors refuses views of one storage.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in _tensors(modules).items()
    }
    return safetensors.torch.save(tensors, dict(metadata or {}))


def decode_weights(source: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors in the content of a safetensors file; ``source`` is for the message."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{damaged(source)} ({error})") from error


def read_bytes(path: Path, sha256: str | None = None) -> bytes:
    """The content of a file, with the given checksum."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if sha256 is not None and digest(content) != sha256:
        raise CheckpointError(f"{damaged(path)}; its checksum is not the recorded one")
    return content


def check_fit(
    source: Path,
    found: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    same_dtype: bool = False,
) -> None:
    """Raise :class:`CheckpointError` unless the tensors fit the modules by name, shape and type."""
    expected = _tensors(modules)
    problems = [f"lacks {name!r}" for name in expected if name not in found]
    problems += [f"has {name!r}, which the modules lack" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        value, tensor = found[name], expected[name]
        convertible = not same_dtype and _floating(value) and _floating(tensor)
        if value.shape != tensor.shape:
            shapes = f"{tuple(value.shape)}, the modules {tuple(tensor.shape)}"
            problems.append(f"has {name!r} of shape {shapes}")
        elif value.dtype != tensor.dtype and not convertible:
            problems.append(f"has {name!r} as {value.dtype}, the modules {tensor.dtype}")
    if problems:
        more = f"; and {len(problems) - 4} more differences" if len(problems) > 4 else ""
        raise CheckpointError(
            f"{source} belongs to another architecture: it {'; it '.join(problems[:4])}{more}. "
            "Build the modules with the options that the file was made with. Nothing was loaded."
        )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`NonFiniteError`, naming the first tensor with a NaN or infinity."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise NonFiniteError(
                f"the parameter {name!r}, its average or its optimizer state holds NaN or infinite "
                "values: nothing was saved, earlier files are untouched; go back to the last "
                "checkpoint and lower the learning rate"
            )


def _floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def digest(content: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def damaged(path: Path) -> str:
    """The message about a damaged file."""
    return f"{path} is truncated or altered: restore it from a copy, download it or train again"
