"""Ownership of a run folder: it belongs to one process at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pyro_vlae.infer.distributed import rank
from pyro_vlae.reproducible import TEMPORARY
from pyro_vlae.training.weights import CheckpointError

_WRITTEN = (".json", ".npz", ".png", ".pt")


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if necessary, for the duration of a ``with`` block.

    The lock dies with its owner, even if that is killed. The thread that holds it may enter again.
    Temporary files left by a killed process are removed, and so is a new folder in which nothing
    was written. Of several ranks, rank 0 owns the folder.

    Raises:
        CheckpointError: another process uses the folder, or it cannot be written.
    """
    if rank() > 0:
        yield
        return
    path = folder.resolve() / ".lock"
    lock = FileLock(path, is_singleton=True)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        own = os.stat(path)
        outermost = lock.lock_counter == 1
        if outermost:
            _remove_leftovers(folder)
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by another run: wait until it ends, stop it, or choose another "
            "output folder"
        ) from None
    except OSError as error:
        lock.release()
        raise CheckpointError(
            f"cannot write to {folder}: {error.strerror or error}; choose another output folder"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or be another one
            if outermost and os.path.samestat(os.stat(path), own):
                path.unlink()
                if new and not any(folder.iterdir()):
                    folder.rmdir()
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove files that a killed process was writing: a run file's name, its id, and ``.tmp``."""
    for path in (*folder.glob(f"*{TEMPORARY}"), *folder.glob(f"*/*{TEMPORARY}")):
        name = path.with_suffix("")
        if name.suffix[1:].isdigit():
            name = name.with_suffix("")
        if name.suffix in _WRITTEN:
            path.unlink(missing_ok=True)
