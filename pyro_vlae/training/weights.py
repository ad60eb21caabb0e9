"""Weight files: parameters and buffers of modules in the safetensors format."""

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
    path: str | Path, modules: Mapping[str, nn.Module], metadata: Mapping[str, str]
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
    write_file(Path(path), safetensors.torch.save(finite_weights(modules), dict(metadata)))


def load_weights(path: str | Path, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Copy a file written by :func:`save_weights` into modules, in place.

    Floating-point tensors are converted to the precision of the modules.

    Returns:
        The metadata saved with it.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or of another architecture; the
            modules are not changed.
        TypeError: the modules are not given by name.
    """
    if not isinstance(modules, Mapping):
        raise TypeError(
            f"expected modules by name, such as {{'model': model, 'guide': guide}}, got a "
            f"{type(modules).__name__}"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise damaged(path) from error
    check_fit(path, weights, modules)
    copy_weights(weights, modules)
    return metadata


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Trainable parameters, each once, named as in weight files."""
    named = nn.ModuleDict(dict(modules)).named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def finite_weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies of parameters and buffers on the CPU, tied ones once; parameters must be finite."""
    check_finite(named_parameters(modules))
    # Copies, because safetensors refuses tensors that share storage.
    weights = _tensors(modules).items()
    return {name: w.detach().to("cpu", copy=True).contiguous() for name, w in weights}


def check_fit(
    source: str | Path,
    weights: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    same_dtype: bool = False,
) -> None:
    """Raise :class:`CheckpointError` unless weights fit the modules by name, shape, and dtype."""
    expected = _tensors(modules)
    problems = [f"lacks {name!r}" for name in expected if name not in weights]
    unknown = [f"has {n!r}, which the modules lack" for n in weights if n not in expected]
    problems += unknown
    for name in sorted(expected.keys() & weights.keys()):
        found, own = weights[name], expected[name]
        floating = found.is_floating_point() and own.is_floating_point()
        if found.shape != own.shape:
            shapes = f"{tuple(found.shape)}, the modules {tuple(own.shape)}"
            problems.append(f"has {name!r} of shape {shapes}")
        elif found.dtype != own.dtype and (same_dtype or not floating):
            problems.append(f"has {name!r} as {found.dtype}, the modules {own.dtype}")
    if problems:
        more = f"; and {len(problems) - 4} more differences" if len(problems) > 4 else ""
        lazy = " Call a guide that creates its parameters in its first run (AutoNormal) once first."
        raise CheckpointError(
            f"{source} belongs to another architecture: it {'; it '.join(problems[:4])}{more}. "
            "Build the modules with the options that the file was made with."
            f"{lazy if unknown else ''} Nothing was loaded."
        )


def copy_weights(weights: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    """Copy weights into modules that they fit, in place."""
    nn.ModuleDict(dict(modules)).load_state_dict(weights, strict=False)  # tied names are absent


def check_trained(names: list[str]) -> None:
    """Raise a RuntimeError if there are parameters that no step has trained, given their names."""
    if names:
        raise RuntimeError(
            f"{len(names)} trainable parameters are not trained, {names[0]!r} first: Pyro's "
            "parameter store holds another tensor in their place, or none. Call "
            "pyro.clear_param_store() before building a new model, register modules under "
            "distinct names, or call requires_grad_(False) on what should stay fixed"
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


def write_file(path: Path, content: bytes) -> None:
    """Replace a file, whose folder is created if necessary, or raise :class:`CheckpointError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; free space there or choose another "
            "folder. An earlier file is untouched."
        ) from error


def damaged(path: str | Path) -> CheckpointError:
    """Return the error for a damaged file."""
    return CheckpointError(
        f"{path} is truncated or altered: restore it from a copy, download it, or train again"
    )


def _tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one once, under its first name."""
    state = nn.ModuleDict(dict(modules)).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    return {n: t for n, t in state.items() if first.setdefault(id(t), n) == n}
