"""Helpers for reproducible results: derived seeds, an evaluation context, atomic writing."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn


def derive_seed(*parts: int | str) -> int:
    """Hash a seed, indices, and a purpose to a 64-bit seed that differs for other inputs."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def set_seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of one device."""
    # Not torch.manual_seed, which would reseed the other GPUs too.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def evaluation_mode(*programs: Callable[..., Any]) -> Iterator[None]:
    """Run programs in evaluation mode and without validation, as usual consuming random numbers.

    Afterwards, training modes, validation, and Pyro's parameter store are restored. Convolutions on
    a GPU run in full float32: TF32 rounds differently for each chunk size.

    Args:
        programs: models and guides; those that are modules are put into evaluation mode.
    """
    modules = [m for p in programs if isinstance(p, nn.Module) for m in p.modules()]
    training = [module.training for module in modules]
    store = pyro.get_param_store()
    known = set(store.keys())
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        for module in modules:
            module.training = False
        torch.backends.cudnn.allow_tf32 = False
        with pyro.validation_enabled(False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
        for name in set(store.keys()) - known:
            del store[name]


@contextlib.contextmanager
def evaluation_context(device: torch.device, *programs: Callable[..., Any]) -> Iterator[None]:
    """Run programs as in `evaluation_mode`; the random state, too, is restored afterwards.

    Args:
        device: where the programs run.
        programs: as for `evaluation_mode`.
    """
    devices = [device] if device.type == "cuda" else []
    with evaluation_mode(*programs), torch.random.fork_rng(devices=devices):
        yield


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically; on return the new content is on disk.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # sync the renaming, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, atomically; NaN, which JSON does not have, as null."""
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
