"""The metrics of a training run, logged as one JSON object per line."""

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pyro.infer import ELBO
from torch import Tensor
from tqdm import tqdm

from pyro_vlae.training.weights import CheckpointError

# Metrics that an ELBO may provide, and the names of its attributes.
_ELBO_METRICS = dict(kl_nats="last_rate", distortion_nats="last_distortion", gamma="last_gamma")


class MetricsLog:
    """The logged lines of a run, in memory and, if a path is given, in a JSON-lines file.

    Args:
        path: the file, None for memory only; its folder is created if necessary.
        length: bytes of an existing file to keep; the rest is cut off. 0 starts a new log.
        digest: digest of these bytes, as returned by :meth:`sync`; None to accept any.

    Raises:
        CheckpointError: the file cannot be written, is shorter than ``length``, or the part to keep
            is not what was written.
    """

    def __init__(self, path: Path | None, length: int = 0, digest: str | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file: Any = None
        self._hash = hashlib.blake2b(digest_size=8)
        if path is None:
            return
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by close())
            self._file.seek(0)
            kept = self._file.read(length)
            # If the file was moved away, a new one is started.
            if 0 < len(kept) < length:
                raise ValueError(f"{path} has {len(kept)} bytes, expected at least {length}")
            self._hash.update(kept)
            if kept and digest not in (None, self._hash.hexdigest()):
                raise ValueError(f"{path} was altered")
            self.lines = _parse(kept, path)
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

    def write(self, line: dict[str, Any], saved: str) -> None:
        """Add one line.

        Args:
            line: its content.
            saved: what is saved of the run, for error messages.

        Raises:
            CheckpointError: the file cannot be written, or was deleted, moved, or replaced.
        """
        self.lines.append(line)
        if self._file is not None:
            content = json.dumps(line).encode() + b"\n"
            with self._in_place(saved) as file:
                file.write(content)
                file.flush()
            self._hash.update(content)

    def sync(self, saved: str) -> tuple[int, str]:
        """Sync the file to disk, and return its length in bytes and the digest of its content.

        Args and errors are those of :meth:`write`.
        """
        if self._file is None:
            return 0, ""
        with self._in_place(saved) as file:
            os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, self._hash.hexdigest()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a line that could not be written
                self._file.close()

    @contextlib.contextmanager
    def _in_place(self, saved: str) -> Iterator[BinaryIO]:
        """The open file, which must still be the one at its path."""
        problem = "was deleted, moved, or replaced during training"
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                problem = ""
        try:
            if not problem:
                yield self._file
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
        if problem:
            raise CheckpointError(
                f"{self._path} {problem}; {saved}. Put the folder back and resume, or choose "
                "another one"
            )


class StepMetrics:
    """The metrics of the steps since the last logged line.

    Attributes:
        values: values of each metric. Scalar tensors stay on their device: adding them needs no
            host-device synchronization.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}

    def add(self, elbo: ELBO, loss: float, gradient_norm: Tensor | None) -> None:
        """Add a step with this loss per image; see `fit` for what an ELBO may provide."""
        metrics: dict[str, Any] = {"elbo": -loss}
        offered = {name: getattr(elbo, where, None) for name, where in _ELBO_METRICS.items()}
        metrics |= {name: value for name, value in offered.items() if value is not None}
        if "kl_nats" in metrics and "distortion_nats" in metrics:
            metrics["elbo"] = -(metrics["kl_nats"] + metrics["distortion_nats"])
        for name, value in {**metrics, "gradient_norm": gradient_norm}.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """The means by name."""
        return {name: math.fsum(map(float, v)) / len(v) for name, v in self.values.items()}

    def state(self) -> dict[str, list[float]]:
        """The values as JSON numbers."""
        return {name: [float(value) for value in v] for name, v in self.values.items()}


def progress_bar(total: int | None, step: int, shown: bool) -> tqdm:
    """A bar of training steps."""
    interval = 1 if sys.stderr.isatty() else 10  # seconds; fewer lines in a log file
    return tqdm(total=total, initial=step, unit="step", mininterval=interval, disable=not shown)


def summary(metrics: dict[str, Any], images_per_second: float) -> str:
    """Metrics in words, for a progress bar."""
    bits = f"KL {metrics['kl_nats'] / math.log(2):.1f} bits, " if "kl_nats" in metrics else ""
    return f"ELBO {metrics['elbo']:.2f}, {bits}{images_per_second:.0f} images/s"


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a ``metrics.jsonl``, one JSON object per line.

    An incomplete last line, left by a killed run, is skipped.

    Raises:
        ValueError: any other line is not a JSON object of numbers; the message names it.
    """
    return _parse(Path(path).read_bytes(), Path(path))


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    text = content.decode(errors="replace")
    lines, records = text.splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            if not all(type(value) in (int, float) for value in record.values()):
                raise ValueError("not numbers")
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(
                f"{path}, line {number}: expected a JSON object of numbers, got {line[:60]!r}"
            ) from error
        records.append(record)
    return records
