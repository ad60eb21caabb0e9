"""Find the published files of a data set on disk or download them, and verify them.

A file is looked for in the folder given as ``root``, then in ``$PYRO_VLAE_DATA``, then in the user
cache, into which it is downloaded if none has it. The first two are only ever read. Nothing is
decoded before its checksum is known to be right, and decompression stops at the known size.
"""

import gzip
import hashlib
import io
import logging
import lzma
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pooch

from pyro_vlae.data.download import download
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError

ROOT_VARIABLE = "PYRO_VLAE_DATA"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set: where it lives, and how to know that it is the right one.

    Args:
        folder: Its folder below a data root.
        name: Its name when not compressed; with ".gz" or ".xz" after it is accepted too.
        checksum: ``"algorithm:digest"`` of the content when not compressed.
        limit: Bytes of that content, or more where they are not known: reading stops there.
        mirrors: Addresses of the folders that serve it, each ending in a slash, in the order in
            which they are tried.
        gz_checksum: ``"algorithm:digest"`` of the ".gz" file that the mirrors serve; None if they
            serve it as it is.
        archive: A tar file that holds this file under its name and serves instead of it.
    """

    folder: str
    name: str
    checksum: str
    limit: int
    mirrors: tuple[str, ...] = ()
    gz_checksum: str | None = None
    archive: "PublishedFile | None" = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What may follow the name: that of a compression, unless the name has one."""
        return ("",) if self.name.endswith(".gz") else ("", ".gz", ".xz")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be downloaded from."""
        name = self.name if self.gz_checksum is None else f"{self.name}.gz"
        return tuple(mirror + name for mirror in self.mirrors)

    def inside(self, root: Path) -> Path | None:
        """Return this file below ``root``, compressed or not, or None."""
        for suffix in self.suffixes:
            path = root / self.folder / (self.name + suffix)
            if os.path.isfile(path):  # unlike Path.is_file, no error on a forbidden folder
                return path
        return None


def user_cache() -> Path:
    """The folder into which data sets are downloaded."""
    return Path(pooch.os_cache("pyro_vlae"))


class FileStore:
    """Where one call of `load_dataset` finds its files.

    Args:
        dataset: Name of the data set, for messages.
        root: Folder to look in first.
        download: Whether a file that is not on disk may be downloaded.

    Raises:
        DatasetError: a folder that was named does not exist.
    """

    def __init__(self, dataset: str, root: str | os.PathLike[str] | None, download: bool) -> None:
        self._dataset = dataset
        self._download = download
        self._cache = user_cache()
        self._named_roots: list[tuple[str, Path]] = []  # what the user named, and how
        if root is not None:
            self._named_roots.append(("the data folder given", Path(root).expanduser()))
        if os.environ.get(ROOT_VARIABLE):
            variable = Path(os.environ[ROOT_VARIABLE]).expanduser()
            self._named_roots.append((f"${ROOT_VARIABLE}", variable))
        for how, folder in self._named_roots:
            if not os.path.isdir(folder):
                raise DatasetError(
                    f"{how}, {folder}, is not a folder: correct it, or leave it out to use the "
                    "user cache"
                )
        self._dead_mirrors: dict[str, str] = {}
        self._warned: set[Path] = set()
        self._archives: dict[Path, dict[str, bytes]] = {}

    def find(self, *choices: PublishedFile) -> tuple[Path, PublishedFile]:
        """Return the first of ``choices`` that the first folder to have any of them has.

        Raises:
            DatasetNotFoundError: none is on disk, and none could be downloaded.
        """
        if (found := self._on_disk(choices)) is not None:
            self._warn_of_folders_without(choices, found[0])
            return found
        failures = []
        for choice in choices:
            if self._download:
                checksum = choice.gz_checksum or choice.checksum
                folder = self._cache / choice.folder
                path, failed = download(choice.addresses, checksum, folder, self._dead_mirrors)
                failures += failed
                if path is not None:
                    self._warn_of_folders_without(choices, path)
                    return path, choice
        raise DatasetNotFoundError(self._not_found(choices, failures))

    def read(self, file: PublishedFile) -> bytes:
        """Find ``file``, or its archive, and return its verified content.

        Raises:
            DatasetNotFoundError: it is neither on disk nor downloadable.
            DatasetCorruptError: it is not the published file.
            DatasetError: it cannot be read.
        """
        if file.archive is None:
            return read_verified(*self.find(file))
        path, found = self.find(file, file.archive)
        if found is file:
            return read_verified(path, file)
        if path not in self._archives:
            self._archives[path] = _members(read_verified(path, found))
        return self._archives[path][file.name]

    def read_if_on_disk(self, file: PublishedFile) -> bytes | None:
        """Likewise for an optional file: None if no folder has it, without a download."""
        found = self._on_disk([file])
        return None if found is None else read_verified(*found)

    def _on_disk(self, choices: Sequence[PublishedFile]) -> tuple[Path, PublishedFile] | None:
        for root in [*(path for _, path in self._named_roots), self._cache]:
            for choice in choices:
                path = choice.inside(root)
                if path is not None:
                    return path, choice
        return None

    def _warn_of_folders_without(self, choices: Sequence[PublishedFile], path: Path) -> None:
        """Warn, once for each folder the user named, that it does not have the file."""
        for how, root in self._named_roots:
            if root in path.parents:
                return
            if root not in self._warned:
                self._warned.add(root)
                lacks = f"{choices[0].folder}/{choices[0].name}"
                _log.warning(
                    "%s: %s (%s) has no %s; using %s", self._dataset, root, how, lacks, path
                )

    def _not_found(self, choices: Sequence[PublishedFile], failures: Sequence[str]) -> str:
        folder = choices[0].folder
        names = " or ".join(
            f"{folder}/{choice.name}" + "[.gz|.xz]" * (len(choice.suffixes) > 1)
            for choice in choices
        )
        tried = "and downloads are switched off (download=False)"
        if self._download:
            tried = "and could not be downloaded"
        lines = [f"data set {self._dataset!r}: {names} is not on disk {tried}.", "Looked in:"]
        lines += [f"  {root} ({how})" for how, root in self._named_roots]
        lines.append(f"  {self._cache} (the user cache)")
        if failures:
            lines += ["Tried to download:", *(f"  {failure}" for failure in failures)]
        addresses = next((choice.addresses for choice in choices if choice.addresses), ())
        what = f"the file of {' or '.join(addresses)}" if addresses else "the file"
        target = (self._named_roots[0][1] if self._named_roots else self._cache) / folder
        lines.append(f"What to do: put {what} into {target},")
        lines.append(
            f"or name the folder above {folder}/ with --data-dir, root= or ${ROOT_VARIABLE}."
        )
        return "\n".join(lines)


def read_verified(path: Path, file: PublishedFile) -> bytes:
    """Read, decompress and verify the file at ``path``, which is left as it is.

    Raises:
        DatasetCorruptError: it is truncated, damaged, or another file than the published one.
        DatasetError: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            content = _decompressed(stream, file)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        problem = f"its compressed stream is truncated or damaged ({error})"
        raise _corrupt(path, file, problem) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > file.limit:
        raise _corrupt(path, file, f"it has more than {file.limit:,} bytes")
    algorithm, expected = file.checksum.split(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        start = f", which begin with {content[:16]!r}," if content else ""
        problem = f"the {algorithm} of its {len(content):,} bytes{start} is {found}"
        raise _corrupt(path, file, f"{problem}; expected {expected}")
    return content


def _decompressed(stream: BinaryIO, file: PublishedFile) -> bytes:
    """Read at most one byte more than the file may have."""
    start = stream.read(6)
    stream.seek(0)
    # By content, not by name: browsers like to decompress downloads without renaming them.
    if len(file.suffixes) > 1 and start.startswith(b"\x1f\x8b"):
        with gzip.open(stream) as gz:
            return gz.read(file.limit + 1)
    if len(file.suffixes) > 1 and start == b"\xfd7zXZ\x00":
        with lzma.open(stream) as xz:
            return xz.read(file.limit + 1)
    return stream.read(file.limit + 1)


def _members(archive: bytes) -> dict[str, bytes]:
    """The files in a verified tar archive by their names, whatever folder they are in."""
    members = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                members[Path(member.name).name] = content.read()
    return members


def _corrupt(path: Path, file: PublishedFile, problem: str) -> DatasetCorruptError:
    remedy = "replace it with the published file"
    served = file.archive or file
    if served.addresses:
        remedy = (
            f"delete it to download it again, or replace it with {' or '.join(served.addresses)}"
        )
    return DatasetCorruptError(f"{path} is not the published {file.name}: {problem}. {remedy}.")
