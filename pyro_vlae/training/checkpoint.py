"""Training checkpoints that survive a kill at any moment.

A checkpoint folder holds two files of weights, the current and the averaged ones, a file of
optimizer and random states, and ``state.json``, which names these files and their checksums.
Replacing ``state.json`` is the one moment at which a new checkpoint takes the place of the old one.
"""

import io
import json
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import write_atomically
from pyro_vlae.training.random_state import capture_random_state, restore_random_state
from pyro_vlae.training.weights import (
    CheckpointError,
    check_finite,
    check_fit,
    damaged,
    decode_weights,
    digest,
    encode_weights,
    load_weights,
    named_parameters,
    read_bytes,
)

STATE_FILE = "state.json"
_FORMAT = 2
_WEIGHTS, _AVERAGE, _OPTIMIZER = "weights", "average", "optimizer"


def save_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    state: Mapping[str, Any],
    generator: torch.Generator,
) -> None:
    """Write weights, averages, optimizer, random states and training state; then drop older files.

    Args:
        folder: created if necessary.
        modules: e.g. ``{"model": model, "guide": guide}``; parameters and buffers are saved.
        optimizer: its parameters are registered under the names of :func:`named_parameters`.
        state: JSON values; ``state["step"]`` becomes part of the file names.
        generator: the generator of the data; the global generators are saved, too.

    Raises:
        CheckpointError: weights, averages or optimizer state are not finite, a trained parameter
            belongs to no module, or the folder cannot be written. An earlier checkpoint stays.
    """
    folder = Path(folder)
    named = named_parameters(modules)
    saved = optimizer.get_state()
    outside = [name for name in saved["names"] if name not in named]
    if outside:
        raise CheckpointError(
            f"{outside[0]!r} is trained but is no parameter of the modules to be saved: make it "
            "a parameter (PyroParam) of the model or guide, or register() it under its name there"
        )
    for index, values in saved["optimizer"]["state"].items():
        for value in values.values():
            check_finite({saved["names"][index]: torch.as_tensor(value)})
    contents = {_WEIGHTS: encode_weights(modules)}
    if saved.pop("averages"):
        with optimizer.averaged():
            contents[_AVERAGE] = encode_weights(modules)
    buffer = io.BytesIO()
    torch.save({"optimizer": saved, "random": capture_random_state(generator)}, buffer)
    contents[_OPTIMIZER] = buffer.getvalue()
    stem = f"{state['step']:08d}-{secrets.token_hex(4)}"  # never the name of a file in use
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for kind, content in contents.items():
            suffix = "pt" if kind == _OPTIMIZER else "safetensors"
            files[kind] = {"name": f"{kind}-{stem}.{suffix}", "sha256": digest(content)}
            write_atomically(folder / files[kind]["name"], content)
        record = json.loads(json.dumps({"files": files, "state": dict(state)}))
        record = {"format": _FORMAT, "sha256": digest(_canonical(record)), **record}
        write_atomically(folder / STATE_FILE, json.dumps(record, indent=1).encode())
        for kind in (_WEIGHTS, _AVERAGE, _OPTIMIZER):
            for path in folder.glob(f"{kind}-*"):
                if stem not in path.name:
                    path.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint to {folder}: {error.strerror or error}; free space "
            "there or choose another folder. An earlier checkpoint in it is untouched."
        ) from error


def load_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Copy a checkpoint into modules and optimizer, in place, after checking all of it.

    Args:
        folder: of :func:`save_checkpoint`.
        modules: as they were saved; parameters keep their identity.
        optimizer: is registered under the names of :func:`named_parameters`.
        generator: if given, it and the global generators continue where they were saved.

    Returns:
        The training state that was given to :func:`save_checkpoint`.

    Raises:
        CheckpointError: missing, truncated or altered files, or another architecture. The modules
            are not changed then.
    """
    folder = Path(folder)
    record = _read_record(folder)
    contents = {
        kind: read_bytes(folder / e["name"], e["sha256"]) for kind, e in record["files"].items()
    }
    weights = decode_weights(folder, contents[_WEIGHTS])
    check_fit(folder, weights, modules, same_dtype=True)
    try:  # tensors, numbers and strings only: nothing in the file is executed
        rest = torch.load(io.BytesIO(contents[_OPTIMIZER]), "cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(damaged(folder / record["files"][_OPTIMIZER]["name"])) from error
    saved = rest["optimizer"]
    average = decode_weights(folder, contents[_AVERAGE]) if _AVERAGE in contents else {}
    saved["averages"] = [average[name] for name in saved["names"] if average]
    try:
        optimizer.register(named_parameters(modules).items())
        optimizer.set_state(saved)
    except ValueError as error:
        raise CheckpointError(f"{folder} does not fit: {error}") from error
    nn.ModuleDict(dict(modules)).load_state_dict(weights, strict=False)
    if generator is not None:
        restore_random_state(rest["random"], generator)
    return record["state"]


def load_averaged_weights(folder: str | Path, modules: Mapping[str, nn.Module]) -> None:
    """Copy the averaged weights of a checkpoint into modules, or the weights if it has no average.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    files = _read_record(Path(folder))["files"]
    entry = files.get(_AVERAGE, files[_WEIGHTS])
    read_bytes(Path(folder) / entry["name"], entry["sha256"])
    load_weights(Path(folder) / entry["name"], modules)


def has_checkpoint(out: Path) -> bool:
    """Whether the run in the folder ``out`` has written a checkpoint."""
    return (out / "checkpoint" / STATE_FILE).exists()


def read_state(folder: str | Path) -> dict[str, Any]:
    """Read the training state of a checkpoint folder, e.g. to rebuild a model from its ``config``.

    Raises:
        CheckpointError: no checkpoint there, or ``state.json`` is truncated or altered.
    """
    return _read_record(Path(folder))["state"]


def _read_record(folder: Path) -> dict[str, Any]:
    """The content of ``state.json``, known to be as it was written."""
    path = folder / STATE_FILE
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint in {folder}: {STATE_FILE} is missing; start without resuming, or "
            "name the folder of the run to continue"
        )
    try:
        record = json.loads(read_bytes(path))
        version = record.pop("format")
        if version == _FORMAT and record.pop("sha256") != digest(_canonical(record)):
            raise ValueError("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(damaged(path)) from error
    if version != _FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}, this version reads {_FORMAT}: "
            "continue with the version that wrote it"
        )
    return record


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()
