"""Figures of a training run: gathered step by step, logged as one JSON object per line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vlae.training.tensor_files import CheckpointError


class StepWindow:
    """Figures of the steps since the last logged line.

    Scalar tensors stay on their device until a mean is asked for, so that adding them does
    not wait for a GPU.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._fresh: dict[str, list[float | Tensor]] = {}

    def add(self, figures: Mapping[str, float | Tensor]) -> None:
        """Take in one step's figures: numbers or scalar tensors."""
        for name, value in figures.items():
            self._fresh.setdefault(name, []).append(value)

    def values(self) -> dict[str, list[float]]:
        """All figures so far, as numbers: name -> one value for each step."""
        for name, fresh in self._fresh.items():
            if any(isinstance(value, Tensor) for value in fresh):
                fresh = torch.stack([torch.as_tensor(value).detach() for value in fresh]).tolist()
            self._values.setdefault(name, []).extend(float(value) for value in fresh)
        self._fresh = {}
        return self._values

    def means(self) -> dict[str, float]:
        """Mean of each figure over its steps."""
        return {name: math.fsum(v) / len(v) for name, v in self.values().items() if v}

    def restart(self, values: Mapping[str, list[float]] | None = None) -> None:
        """Forget all figures, or go on from those that :meth:`values` once returned."""
        self._fresh = {}
        self._values = {name: list(v) for name, v in (values or {}).items()}


class MetricsLog:
    """The logged lines of a run, in memory and, if a path is given, in a JSON-lines file.

    Args:
        path: the file, ``None`` for memory only.
        length: bytes of an existing file to keep; what follows is cut off. 0 starts anew.

    Raises:
        CheckpointError: the file is shorter than ``length``, or not JSON lines up to there.
    """

    def __init__(self, path: Path | None, length: int = 0) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file = None
        if path is None:
            return
        kept = path.read_bytes()[:length] if length and path.exists() else b""
        if path.exists() and len(kept) < length:
            raise CheckpointError(
                f"{path} has {len(kept)} bytes, the checkpoint was made at {length}: restore the "
                "file, or move it away to log to a new one"
            )
        try:
            self.lines = [json.loads(line) for line in kept.splitlines()]
        except ValueError as error:
            raise CheckpointError(
                f"{path} is not a file of JSON lines: restore it, or move it away to log to a "
                "new one"
            ) from error
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close())
        if self._file.tell() > len(kept):
            self._file.truncate(len(kept))

    def write(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self.lines.append(line)
        if self._file is not None:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def synced_length(self) -> int:
        """Length of the file in bytes, all of which are on the disk by now."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
