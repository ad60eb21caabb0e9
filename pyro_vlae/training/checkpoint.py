"""Training checkpoints: one file, replaced atomically, so that a run may be killed at any time.

The file is a zip archive written by `torch.save`: weights, their averages, the averages with the
best validation ELBO, the states of optimizer and random generators, and the training state as JSON.
Reading it checks the archive's checksums and executes no code.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The verified content of a checkpoint, on the CPU; read by `read_checkpoint`.

    Attributes:
        path: the file.
        state: the training state, e.g. ``step``, ``images_seen``, ``config``.
        weights: parameters and buffers by name.
        best: the averaged weights with the best validation ELBO, None without validation.
        optimizer: state of the optimizer, with the averages of the weights.
        random: states of the random generators.
    """

    path: Path
    state: dict[str, Any]
    weights: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    random: dict[str, Any]


def save_checkpoint(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    state: dict[str, Any],
    generator: torch.Generator,
    best: dict[str, Tensor] | None = None,
) -> None:
    """Write weights, averages, optimizer state, random states, and training state.

    Args:
        folder: created if necessary.
        modules: e.g. ``{"model": model, "guide": guide}``; parameters and buffers are saved.
        optimizer: its parameters are registered under the names of :func:`named_parameters`.
        state: JSON values.
        generator: the generator of the data; the global generators are saved, too.
        best: the averaged weights with the best validation ELBO.

    Raises:
        CheckpointError: weights, averages, or optimizer state are not finite, a trained parameter
            belongs to no module, or the folder cannot be written. An earlier checkpoint is kept.
    """
    saved = optimizer.get_state()
    outside = saved["shapes"].keys() - named_parameters(modules).keys()
    if outside:
        raise CheckpointError(
            f"{min(outside)!r} is trained but is not a parameter of the saved modules: make it "
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
        "best": best,
        "optimizer": saved,
        "random": capture_random_state(generator),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(Path(folder) / CHECKPOINT_FILE, buffer.getvalue())


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder, and verify that its file is undamaged.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or of another version.
    """
    path = Path(folder) / CHECKPOINT_FILE
    if not path.exists():
        raise missing(folder)
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        _check_members(zipfile.ZipFile(file))
        file.seek(0)
        # Tensors, numbers, and strings only: nothing in the file is executed.
        content = torch.load(file, "cpu", weights_only=True)
        version = content["format"]
        if version == _FORMAT:
            return Checkpoint(
                path=path,
                state=dict(json.loads(content["state"])),
                weights=dict(content["weights"]),
                best=content.get("best"),
                optimizer=dict(content["optimizer"]),
                random=dict(content["random"]),
            )
    except Exception as error:  # of many kinds, if the file is damaged
        raise damaged(path) from error
    raise CheckpointError(
        f"{path} has format {version!r}, this version reads {_FORMAT}: "
        "continue with the version that wrote it"
    )


def _check_members(file: zipfile.ZipFile) -> None:
    """Raise a ValueError unless all members are intact, have their own names, and are stored.

    Compressed ones, which torch does not write, could become larger than the memory.
    """
    members = file.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or len(set(file.namelist())) < len(members) or file.testzip() is not None:
        raise ValueError("members")


def load_checkpoint(
    source: str | Path | Checkpoint,
    modules: Mapping[str, nn.Module],
    optimizer: JointOptim,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Copy a checkpoint into modules, optimizer and random generators, in place.

    Args:
        source: the folder given to :func:`save_checkpoint`, or what was read from it.
        modules: parameters are copied in place.
        optimizer: the parameters are registered with it.
        generator: the generator of the data.

    Returns:
        The training state that was given to :func:`save_checkpoint`.

    Raises:
        CheckpointError: as :func:`read_checkpoint`, or it is of another architecture; nothing is
            loaded.
    """
    checkpoint = _opened(source)
    check_fit(checkpoint.path, checkpoint.weights, modules, same_dtype=True)
    try:
        optimizer.register(named_parameters(modules).items())
        optimizer.set_state(checkpoint.optimizer)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit: {error}") from error
    copy_weights(checkpoint.weights, modules)
    restore_random_state(checkpoint.random, generator)
    return checkpoint.state


def load_averaged_weights(
    source: str | Path | Checkpoint, modules: Mapping[str, nn.Module]
) -> None:
    """Copy the averaged weights of a checkpoint into modules, or the weights if it has no average.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    checkpoint = _opened(source)
    _load(checkpoint.path, checkpoint.weights | checkpoint.optimizer["averages"], modules)


def load_best_weights(source: str | Path | Checkpoint, modules: Mapping[str, nn.Module]) -> None:
    """Copy the averaged weights with the best validation ELBO of a run into modules.

    Raises:
        CheckpointError: as :func:`load_checkpoint`, or the run has not been validated.
    """
    checkpoint = _opened(source)
    if checkpoint.best is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no best weights: the run was not validated; "
            "load_averaged_weights loads its last ones"
        )
    _load(checkpoint.path, checkpoint.best, modules)


def has_checkpoint(out: Path) -> bool:
    """Whether the run in the folder ``out`` has written a checkpoint."""
    return (out / "checkpoint" / CHECKPOINT_FILE).exists()


def read_state(folder: str | Path) -> dict[str, Any]:
    """Read the training state of a checkpoint folder, e.g. to rebuild a model from its ``config``.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, or altered.
    """
    return read_checkpoint(folder).state


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


def missing(folder: str | Path) -> CheckpointError:
    """Return the error for a folder without a checkpoint."""
    return CheckpointError(
        f"no checkpoint in {folder}: {CHECKPOINT_FILE} is missing; start without resuming, or "
        "name the folder of the run to continue"
    )


def _opened(source: str | Path | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else read_checkpoint(source)


def _load(path: Path, weights: dict[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    check_fit(path, weights, modules)
    copy_weights(weights, modules)
