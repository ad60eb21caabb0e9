"""The metrics of a training run: averaged over steps, logged as one JSON object per line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vlae.training.weights import CheckpointError


class RunningMeans:
    """Means of metrics over the steps since the last logged line.

    Scalar tensors stay on their device until a mean is asked for, so adding them needs no
    host-device synchronization.

    Args:
        values: name -> one value for each step so far.
    """

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        self._values: dict[str, list[float | Tensor]] = {n: [*v] for n, v in (values or {}).items()}

    def add(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Add the metrics of one step: numbers or scalar tensors."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def values(self) -> dict[str, list[float]]:
        """All values as numbers, for the checkpoint."""
        return {name: [float(value) for value in v] for name, v in self._values.items()}

    def means(self) -> dict[str, float]:
        """Mean of each metric over its steps."""
        return {name: math.fsum(v) / len(v) for name, v in self.values().items()}


class MetricsLog:
    """The logged lines of a run, in memory and, if a path is given, in a JSON-lines file.

    Args:
        path: the file, None for memory only.
        length: bytes of an existing file to keep; the rest is cut off. 0 starts a new log.

    Raises:
        CheckpointError: the file cannot be written, is shorter than ``length``, or the part to keep
            does not consist of JSON lines.
    """

    def __init__(self, path: Path | None, length: int = 0) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file = None
        if path is None:
            return
        try:
            kept = path.read_bytes()[:length] if length and path.exists() else b""
            if path.exists() and len(kept) < length:
                raise CheckpointError(
                    f"{path} has {len(kept)} bytes, the checkpoint was made at {length}: restore "
                    "the file, or move it away to log to a new one"
                )
            self.lines = _parse(kept.decode(errors="replace"), path)
            self._file = open(path, "ab")  # noqa: SIM115 (closed by close())
            if self._file.tell() > len(kept):
                self._file.truncate(len(kept))
        except ValueError as error:
            raise CheckpointError(f"{error}; or move the file away to log to a new one") from error
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {path.parent}: {error.strerror or error}; choose another output "
                "folder"
            ) from error

    def write(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self.lines.append(line)
        if self._file is not None:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def synced_length(self) -> int:
        """Length of the file in bytes, after all of them have been written to the disk."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a ``metrics.jsonl``, one JSON object per line.

    A last line that a killed run left unfinished is left out.

    Raises:
        ValueError: any other line is not a JSON object; the message names it.
    """
    return _parse(Path(path).read_text(encoding="utf-8"), Path(path))


def _parse(text: str, path: Path) -> list[dict[str, Any]]:
    lines, records = text.splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, got {line[:60]!r}; "
                "delete the line, or start the run in a new folder"
            ) from error
        records.append(record)
    return records
