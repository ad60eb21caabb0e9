"""Training checkpoints: one file, replaced atomically, so that a run may be killed at any time.

The file is a zip archive written by `torch.save`: weights, their averages, the states of optimizer
and random generators, and the training state as JSON. Loading it checks the archive's checksums
and executes no code.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.training.weights import (
    CheckpointError,
    check_finite,
    check_fit,
    copy_weights,
    damaged,
    finite_weights,
    named_parameters,
    write_file,
)

CHECKPOINT_FILE = "checkpoint.pt"
_FORMAT = 3


def save_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    state: dict[str, Any],
    generator: torch.Generator,
) -> None:
    """Write weights, averages, optimizer state, random states and training state.

    Args:
        folder: created if necessary.
        modules: e.g. ``{"model": model, "guide": guide}``; parameters and buffers are saved.
        optimizer: its parameters are registered under the names of :func:`named_parameters`.
        state: JSON values.
        generator: the generator of the data; the global generators are saved, too.

    Raises:
        CheckpointError: weights, averages, or optimizer state are not finite, a trained parameter
            belongs to no module, or the folder cannot be written. An earlier checkpoint is kept.
    """
    saved = optimizer.get_state()
    outside = saved["shapes"].keys() - named_parameters(modules).keys()
    if outside:
        raise CheckpointError(
            f"{min(outside)!r} is trained but is no parameter of the modules to be saved: make it "
            "a parameter (PyroParam) of the model or guide, or register() it under its name there"
        )
    weights = finite_weights(modules)
    check_finite(saved["averages"])
    for name, values in saved["state"].items():
        for value in values.values():
            check_finite({name: torch.as_tensor(value)})
    content = {
        "format": _FORMAT,
        "state": json.dumps(state),
        "weights": weights,
        "optimizer": saved,
        "random": capture_random_state(generator),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(Path(folder) / CHECKPOINT_FILE, buffer.getvalue())


def load_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Copy a checkpoint into modules, optimizer and random generators, in place.

    Args:
        folder: the folder given to :func:`save_checkpoint`.
        modules: parameters are copied in place.
        optimizer: the parameters are registered with it.
        generator: the generator of the data.

    Returns:
        The training state that was given to :func:`save_checkpoint`.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or of another architecture;
            nothing is loaded.
    """
    content = _read(folder)
    check_fit(folder, content["weights"], modules, same_dtype=True)
    try:
        optimizer.register(named_parameters(modules).items())
        optimizer.set_state(content["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{folder} does not fit: {error}") from error
    copy_weights(content["weights"], modules)
    restore_random_state(content["random"], generator)
    return content["state"]


def load_averaged_weights(folder: str | Path, modules: Mapping[str, nn.Module]) -> None:
    """Copy the averaged weights of a checkpoint into modules, or the weights if it has no average.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    content = _read(folder)
    weights = content["weights"] | content["optimizer"]["averages"]
    check_fit(folder, weights, modules)
    copy_weights(weights, modules)


def has_checkpoint(out: Path) -> bool:
    """Whether the run in the folder ``out`` has written a checkpoint."""
    return (out / "checkpoint" / CHECKPOINT_FILE).exists()


def read_state(folder: str | Path) -> dict[str, Any]:
    """Read the training state of a checkpoint folder, e.g. to rebuild a model from its ``config``.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, or altered.
    """
    return _read(folder)["state"]


def capture_random_state(data: torch.Generator) -> dict[str, Any]:
    """States of the generators of Python, NumPy, torch (with CUDA, if in use) and the data."""
    state = pyro.util.get_rng_state()
    name, words, *rest = state["numpy"]
    state["numpy"] = (name, words.tolist(), *rest)
    state["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state["data"] = {data.device.type: data.get_state()}
    return state


def restore_random_state(state: dict[str, Any], data: torch.Generator) -> None:
    """Set all generators to a captured state.

    States of CUDA devices that this machine lacks are ignored. If the data have moved between CPU
    and CUDA, their generator cannot continue its sequence and keeps its own state.
    """
    pyro.util.set_rng_state(state)
    for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(of_device, device)
    of_data: Tensor | None = state["data"].get(data.device.type)
    if of_data is not None:
        data.set_state(of_data)


def _read(folder: str | Path) -> dict[str, Any]:
    """Read the content of a checkpoint, and verify that it is undamaged."""
    path = Path(folder) / CHECKPOINT_FILE
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint in {folder}: {CHECKPOINT_FILE} is missing; start without resuming, or "
            "name the folder of the run to continue"
        )
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        if zipfile.ZipFile(file).testzip() is not None:
            raise ValueError("checksum")
        file.seek(0)
        # Tensors, numbers and strings only: nothing in the file is executed.
        content = torch.load(file, "cpu", weights_only=True)
        version = content["format"]
        if version == _FORMAT:
            content["state"] = json.loads(content["state"])
    except Exception as error:  # of many kinds, if the file is damaged
        raise damaged(path) from error
    if version != _FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}, this version reads {_FORMAT}: "
            "continue with the version that wrote it"
        )
    return content
