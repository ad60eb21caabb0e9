"""The metrics of a training run, logged as one JSON object per line."""

import json
import os
from pathlib import Path
from typing import Any

from pyro_vlae.training.weights import CheckpointError


class MetricsLog:
    """The logged lines of a run, in memory and, if a path is given, in a JSON-lines file.

    Args:
        path: the file, None for memory only; its folder is created if necessary.
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
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by close())
            self._file.seek(0)
            kept = self._file.read(length)
            # If the file was moved away, a new one is started.
            if 0 < len(kept) < length:
                raise ValueError(f"{path} has {len(kept)} bytes, expected at least {length}")
            self.lines = _parse(kept.decode(errors="replace"), path)
            if self._file.seek(0, os.SEEK_END) > len(kept):
                self._file.truncate(len(kept))
        except ValueError as error:
            self.close()
            raise CheckpointError(
                f"{error}; restore the file, or move it away to log to a new one"
            ) from error
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
        """Sync the file to disk, and return its length in bytes."""
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

    An incomplete last line, left by a killed run, is skipped.

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
                f"{path}, line {number}: expected a JSON object, got {line[:60]!r}"
            ) from error
        records.append(record)
    return records
