"""Helpers for reproducible results: seeds, an evaluation context, atomic and checked files."""

import contextlib
import functools
import hashlib
import inspect
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyro
import torch
from torch import Tensor, nn

TEMPORARY = ".tmp"
"""Suffix of a file that is being written."""
_CHECKSUM = "checksum"
# No real array of such a size is compressed by such a factor.
_INFLATED_BYTES, _INFLATED_RATIO = 1 << 30, 500


def derive_seed(*parts: int | str) -> int:
    """Hash a seed, indices, and a purpose to a 64-bit seed that differs for other inputs."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hash_tensor(digest: hashlib.blake2b, tensor: Tensor) -> None:
    """Add the type, shape, and values of a tensor to a hash."""
    content = tensor.detach().cpu().contiguous()
    digest.update(f"{content.dtype} {tuple(content.shape)} ".encode())
    digest.update(content.flatten().view(torch.uint8).numpy().data)  # scalars have no view


def hash_module(digest: hashlib.blake2b, module: nn.Module) -> None:
    """Add the classes, parameters, and buffers of a module and its parts to a hash."""
    digest.update(" ".join(type(part).__qualname__ for part in module.modules()).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} ".encode())
        hash_tensor(digest, tensor)


def set_seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of one device."""
    # Not torch.manual_seed, which would reseed the other GPUs too.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def wrapped_modules(program: Any) -> Iterator[nn.Module]:
    """The module that a program is or is a method of, or those that it wraps."""
    if isinstance(program, nn.Module):
        yield program
    elif isinstance(program, functools.partial):  # so are programs in Pyro's effect handlers
        for part in (program.func, *program.args, *program.keywords.values()):
            yield from wrapped_modules(part)
    elif inspect.ismethod(program):  # such as vae.model of a module with both model and guide
        yield from wrapped_modules(program.__self__)
    elif hasattr(program, "__wrapped__"):
        yield from wrapped_modules(program.__wrapped__)


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Compute float32 convolutions and matrix products in float32, whatever the user has enabled.

    With TF32 (on a GPU) or bfloat16 (on a CPU, ``torch.set_float32_matmul_precision("medium")``),
    they would round differently for each chunk size.
    """
    backends: Any = torch.backends
    # Since torch 2.9, these settings take precedence over `allow_tf32` and the precision of matrix
    # products, and reading those raises an error if they differ from them.
    kinds: list[Any] = [
        getattr(backend, kind, None)
        for backend in (backends.cudnn, backends.cuda, backends.mkldnn)
        for kind in ("conv", "rnn", "matmul")
    ]
    settings = [kind for kind in kinds if hasattr(kind, "fp32_precision")]
    before = [kind.fp32_precision for kind in settings]
    allow_tf32, matmul = None, None
    with contextlib.suppress(RuntimeError):
        allow_tf32 = backends.cudnn.allow_tf32
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    try:
        if allow_tf32 is not None:
            backends.cudnn.allow_tf32 = False
        if matmul is not None:
            torch.set_float32_matmul_precision("highest")
        for kind in settings:
            kind.fp32_precision = "ieee"
        yield
    finally:
        if allow_tf32 is not None:
            backends.cudnn.allow_tf32 = allow_tf32
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        for kind, value in zip(settings, before, strict=True):
            kind.fp32_precision = value


def inner_modules(*programs: Callable[..., Any]) -> list[nn.Module]:
    """The modules of `wrapped_modules` of all programs, and those inside them."""
    return [m for program in programs for top in wrapped_modules(program) for m in top.modules()]


def forget_parameters(known: set[str]) -> None:
    """Remove all entries of Pyro's parameter store with other names than these."""
    store = pyro.get_param_store()
    for name in set(store.keys()) - known:
        with contextlib.suppress(KeyError):  # a tensor under two names is removed with the first
            del store[name]


@contextlib.contextmanager
def evaluation_mode(*programs: Callable[..., Any]) -> Iterator[None]:
    """Run programs in evaluation mode and without validation, as usual consuming random numbers.

    Afterwards, training modes, validation, and Pyro's parameter store are restored. Everything is
    computed in the precision of the weights, even under `torch.autocast` or if TF32 is enabled.

    Args:
        programs: models and guides; those that are modules or methods of modules, or wrap them with
            effect handlers (``poutine.scale(model, 0.1)``) or `functools.partial`, are put into
            evaluation mode.
    """
    modules = inner_modules(*programs)
    training = [module.training for module in modules]
    known = set(pyro.get_param_store().keys())
    try:
        for module in modules:
            module.training = False
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            _full_float32(),
            pyro.validation_enabled(False),
        ):
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
        forget_parameters(known)


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
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk has no name
            del error.filename2  # None would be shown
        raise
    if os.name == "posix":  # sync the renaming, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a ``.npy`` file, atomically."""
    content = io.BytesIO()
    np.save(content, array)
    write_atomically(path, content.getvalue())


@contextlib.contextmanager
def open_npz(file: BinaryIO) -> Iterator[Any]:
    """Open an ``.npz`` file of numbers; a small one that would fill the memory is refused.

    Raises:
        ValueError: it is not an .npz file, holds two arrays of one name, or has more than 1 GiB and
            was compressed by a factor of more than 500. NumPy raises errors of many kinds if the
            file is damaged.
    """
    if file.read(2) != b"PK":  # otherwise, NumPy tries other formats
        raise ValueError("it is not an .npz file")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        if len(set(arrays.files)) < len(arrays.files):
            raise ValueError("it holds two arrays of one name")
        inflated = sum(member.file_size for member in arrays.zip.infolist())
        if inflated > max(_INFLATED_BYTES, _INFLATED_RATIO * size):
            raise ValueError(f"its {size:,} bytes would become {inflated:,}")
        yield arrays


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON with a checksum, atomically; `read_json` verifies it.

    NaN, which JSON does not have, is written as null.
    """
    content = _without_nan(content)
    text = json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=2, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, and verify its checksum if it has one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is truncated or altered; the message names it.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"expected a JSON object, got {type(content).__name__}")
        found = content.pop(_CHECKSUM, None)
        if found not in (None, _checksum(content)):
            raise ValueError("its content does not match its checksum")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is truncated or altered ({str(error)[:120]}): restore it from a copy"
        ) from error
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
