"""Training checkpoints that survive a kill at any moment, and single files of weights.

A checkpoint folder holds one safetensors file for each kind of tensor (``weights``,
``average``, and one for each kind of optimizer state, e.g. ``exp_avg``), with the step in its
name, and ``state.json``, which names the files that belong together. Replacing ``state.json``
is the one moment at which the new checkpoint takes the place of the old one.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import write_atomically
from pyro_vlae.training.tensor_files import (
    CheckpointError,
    check_finite,
    check_fit,
    copy_into,
    module_tensors,
    read_tensors,
    write_tensors,
)

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "load_weights",
    "named_parameters",
    "read_state",
    "save_checkpoint",
    "save_weights",
]

STATE_FILE = "state.json"
_FORMAT = 1
_WEIGHTS = "weights"
_OUR_FILES = re.compile(r"[A-Za-z_]\w*-\d{8,}(-\d+)?\.safetensors(\.tmp)?|state\.json\.tmp")


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Trainable parameters, each once, named as in the checkpoint.

    ``optimizer.register(named_parameters(modules).items())`` makes the optimizer's state
    follow these names.
    """
    named: dict[str, Tensor] = {}
    seen: set[Tensor] = set()
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters(prefix=prefix):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                named[name] = parameter
    return named


def save_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    state: Mapping[str, Any],
) -> None:
    """Write weights, averages, optimizer and training state; then drop the older files.

    Args:
        folder: made if need be.
        modules: e.g. ``{"model": model, "guide": guide}``; parameters and buffers are saved.
        optimizer: its parameters are registered under the names of :func:`named_parameters`.
        state: anything that JSON holds; ``state["step"]`` goes into the file names.

    Raises:
        CheckpointError: weights, averages or optimizer state are not finite, a trained
            parameter belongs to no module, or the folder cannot be written. The checkpoint
            that was there stays.
    """
    folder = Path(folder)
    kinds, numbers, rest = _split(optimizer.get_state())
    named = named_parameters(modules)
    strangers = [name for name in rest["order"] if name not in named]
    if strangers:
        raise CheckpointError(
            f"{strangers[0]!r} is trained but is no parameter of the modules to be saved: make it "
            "a parameter (PyroParam) of the model or guide, or register() it under its name there"
        )
    check_finite(named, "the parameter")
    for kind, tensors in kinds.items():
        check_finite(tensors, f"the optimizer state {kind!r} of")
    kinds = {_WEIGHTS: module_tensors(modules), **kinds}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{state['step']:08d}"
        taken = {path.name.split("-", 1)[1] for path in folder.glob("*-*.safetensors")}
        attempt = 0
        while f"{stem}.safetensors" in taken:  # never touch a file that may be in use
            attempt += 1
            stem = f"{state['step']:08d}-{attempt}"
        files = {}
        for kind, tensors in kinds.items():
            name = f"{kind}-{stem}.safetensors"
            files[kind] = {"name": name, "sha256": write_tensors(folder / name, tensors)}
        content = {
            "format": _FORMAT,
            "files": files,
            "optimizer": {"numbers": numbers, **rest},
            "state": dict(state),
        }
        write_atomically(folder / STATE_FILE, json.dumps(content, indent=1).encode())
        current = {entry["name"] for entry in files.values()}
        for path in folder.iterdir():
            if _OUR_FILES.fullmatch(path.name) and path.name not in current:
                path.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint to {folder}: {error.strerror or error}; free space "
            "there or choose another folder. An earlier checkpoint in it is untouched."
        ) from error


def load_checkpoint(
    folder: str | Path, modules: Mapping[str, nn.Module], optimizer: JointOptim
) -> dict[str, Any]:
    """Copy a checkpoint into modules and optimizer, in place; check all of it first.

    Parameters keep their identity; the optimizer comes to know them under the names of
    :func:`named_parameters`.

    Returns:
        The training state as it was given to :func:`save_checkpoint`.

    Raises:
        CheckpointError: missing, corrupt or truncated files, or another architecture. Neither
            the modules nor the files are changed then.
    """
    folder = Path(folder)
    content = _read_content(folder)
    kinds = {
        kind: read_tensors(folder / entry["name"], entry["sha256"])[0]
        for kind, entry in content["files"].items()
    }
    weights = kinds.pop(_WEIGHTS)
    check_fit(weights, module_tensors(modules), folder, same_dtype=True)
    saved = content["optimizer"]
    parameters: dict[str, dict[str, Any]] = {name: {} for name in saved["order"]}
    named = named_parameters(modules)
    strangers = [name for name in parameters if name not in named]
    if strangers:
        raise CheckpointError(
            f"{folder} has optimizer state for {strangers[0]!r}, which is no trainable parameter "
            "here: build the modules with the options that it was made with"
        )
    for kind, table in {**kinds, **saved["numbers"]}.items():
        for name, value in table.items():
            parameters[name][kind] = value
    try:
        optimizer.register(named.items())
        optimizer.set_state(
            {
                "parameters": parameters,
                "steps": saved["steps"],
                "learning_rate": saved["learning_rate"],
            }
        )
    except ValueError as error:
        raise CheckpointError(f"{folder} does not fit: {error}") from error
    copy_into(modules, weights)
    return content["state"]


def has_checkpoint(out: Path) -> bool:
    """Whether the run in a folder got as far as its first checkpoint."""
    return (out / "checkpoint" / STATE_FILE).exists()


def read_state(folder: str | Path) -> dict[str, Any]:
    """The training state in a checkpoint folder, e.g. to rebuild a model from its ``config``.

    Raises:
        CheckpointError: no checkpoint there, or ``state.json`` is damaged.
    """
    return _read_content(Path(folder))["state"]


def save_weights(
    path: str | Path, modules: Mapping[str, nn.Module], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the parameters and buffers of modules to one safetensors file, in one move.

    Call it inside ``with optimizer.averaged():`` to export the averages.

    Raises:
        CheckpointError: a parameter is not finite, or the file cannot be written.
    """
    check_finite(named_parameters(modules), "the parameter")
    try:
        write_tensors(Path(path), module_tensors(modules), metadata)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def load_weights(path: str | Path, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Copy a file of :func:`save_weights` into modules, in place; check all of it first.

    Floating-point tensors are converted to the precision of the modules.

    Returns:
        The metadata that was saved with it.

    Raises:
        CheckpointError: a missing, truncated or corrupt file, or another architecture; the
            modules are not changed then.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    check_fit(tensors, module_tensors(modules), path, same_dtype=False)
    copy_into(modules, tensors)
    return metadata


def _split(
    state: dict[str, Any],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Any]], dict[str, Any]]:
    """The optimizer's state as tables ``kind -> name -> value``, tensors and numbers apart."""
    tensors: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, entry in state["parameters"].items():
        for kind, value in entry.items():
            if isinstance(value, Tensor):
                tensors.setdefault(kind, {})[name] = value
            else:
                numbers.setdefault(kind, {})[name] = value
    rest = {key: state[key] for key in ("steps", "learning_rate")}
    return tensors, numbers, {"order": list(state["parameters"]), **rest}


def _read_content(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_bytes())
        version = content["format"]
        if version == _FORMAT:
            content = {key: content[key] for key in ("files", "optimizer", "state")}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint in {folder}: {STATE_FILE} is missing; start without resuming, or "
            "name the folder of the run to continue"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is truncated or corrupt: restore it from a copy or train again"
        ) from error
    if version != _FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}, this version reads {_FORMAT}: "
            "continue with the version that wrote it"
        )
    return content
