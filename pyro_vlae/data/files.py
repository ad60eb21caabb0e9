"""Finding the published files of a data set on disk, or downloading them, and verifying them.

Nothing is decoded before its checksum has been verified, and decompression stops at the known size.
"""

import gzip
import hashlib
import io
import logging
import lzma
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

import pooch

from pyro_vlae.data.download import download
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError

ROOT_VARIABLE = "PYRO_VLAE_DATA"
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set: where it can be found, and how it is verified.

    Args:
        folder: its folder below a data root.
        name: its uncompressed name; the name with ".gz" or ".xz" appended is accepted, too.
        checksum: ``"algorithm:digest"`` of the uncompressed content.
        limit: size of that content in bytes, or an upper bound: reading stops there.
        mirrors: addresses of the folders that serve it, each ending in a slash, in the order in
            which they are tried.
        gz_checksum: ``"algorithm:digest"`` of the ".gz" file that the mirrors serve; None if they
            serve the file itself.
        archive: A tar file that contains this file under its name and is used if it is missing.
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
        """Accepted suffixes to the name."""
        return ("",) if self.name.endswith(".gz") else ("", ".gz", ".xz")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be downloaded from."""
        name = self.name if self.gz_checksum is None else f"{self.name}.gz"
        return tuple(mirror + name for mirror in self.mirrors)


def user_cache() -> Path:
    """The folder into which data sets are downloaded."""
    return Path(pooch.os_cache("pyro_vlae"))


class FileStore:
    """Finds, downloads, and verifies the files for one call of `load_dataset`.

    A file is searched for in ``root``, then in ``$PYRO_VLAE_DATA``, then in the user cache, into
    which it is downloaded if it is missing. The first two are only read.

    Args:
        dataset: name of the data set, for messages.
        root: folder to look in first.
        download: whether missing files may be downloaded.

    Raises:
        DatasetError: ``root`` or ``$PYRO_VLAE_DATA`` is not a folder.
    """

    def __init__(self, dataset: str, root: str | os.PathLike[str] | None, download: bool) -> None:
        self._dataset = dataset
        self._download = download
        named = {
            "the data folder given": root,
            f"${ROOT_VARIABLE}": os.environ.get(ROOT_VARIABLE) or None,
        }
        self._roots = {
            source: Path(folder).expanduser()
            for source, folder in named.items()
            if folder is not None
        }
        for source, folder in self._roots.items():
            if not os.path.isdir(folder):
                raise DatasetError(
                    f"{source}, {folder}, is not a folder: correct it, or leave it out to use the "
                    "user cache"
                )
        self._roots["the user cache"] = self._cache = user_cache()
        self._dead_mirrors: dict[str, str] = {}
        self._warned: set[Path] = set()
        self._archives: dict[tuple[Path, int], dict[str, bytes]] = {}

    def find(self, *choices: PublishedFile) -> tuple[Path, PublishedFile]:
        """Find or download a file that has several acceptable versions.

        Returns:
            The path and the version. Folders are searched in order, and in each folder the
            versions in the order of ``choices``.

        Raises:
            DatasetNotFoundError: none is on disk, and none could be downloaded.
        """
        failures: list[str] = []
        found = self._on_disk(*choices)
        if found is None and self._download:
            found = self._downloaded(choices, failures)
        if found is None:
            raise DatasetNotFoundError(self._not_found(choices, failures))
        self._warn_of_folders_without(choices[0], found[0])
        return found

    def read(self, file: PublishedFile) -> bytes:
        """Find ``file``, or its archive, and return its verified content.

        Raises:
            DatasetNotFoundError: the file is neither on disk nor downloadable.
            DatasetCorruptError: the file is not the published one.
            DatasetError: the file cannot be read.
        """
        if file.archive is None:
            return read_verified(*self.find(file))
        path, found = self.find(file, file.archive)
        if found is file:
            return read_verified(path, file)
        key = path, file.limit
        if key not in self._archives:
            self._archives[key] = _members(path, found, file.limit)
        if file.name not in self._archives[key]:
            problem = f"it holds no file {file.name} of at most {file.limit:,} bytes"
            raise _corrupt(path, found, problem)
        return _verified(self._archives[key][file.name], path, file)

    def read_if_on_disk(self, file: PublishedFile) -> bytes | None:
        """Return the verified content of an optional file, or None; it is never downloaded."""
        found = self._on_disk(file)
        return None if found is None else read_verified(*found)

    def _on_disk(self, *choices: PublishedFile) -> tuple[Path, PublishedFile] | None:
        for root in self._roots.values():
            for choice in choices:
                for suffix in choice.suffixes:
                    path = root / choice.folder / (choice.name + suffix)
                    if os.path.isfile(path):  # unlike Path.is_file, no error on a forbidden folder
                        return path, choice
        return None

    def _downloaded(
        self, choices: tuple[PublishedFile, ...], failures: list[str]
    ) -> tuple[Path, PublishedFile] | None:
        """Download the first available version; add failed addresses to ``failures``."""
        for choice in choices:
            checksum, folder = choice.gz_checksum or choice.checksum, self._cache / choice.folder
            path, failed = download(choice.addresses, checksum, folder, self._dead_mirrors)
            failures += failed
            if path is not None:
                return path, choice
        return None

    def _warn_of_folders_without(self, file: PublishedFile, path: Path) -> None:
        """Warn, once each, about the folders searched before ``path`` was found."""
        for source, root in self._roots.items():
            if root in path.parents:
                return
            if root not in self._warned:
                self._warned.add(root)
                _log.warning(
                    "%s: %s (%s) has no %s/%s; using %s",
                    self._dataset, root, source, file.folder, file.name, path,
                )  # fmt: skip

    def _not_found(self, choices: tuple[PublishedFile, ...], failures: list[str]) -> str:
        folder = choices[0].folder
        names = " or ".join(
            f"{folder}/{choice.name}" + "[.gz|.xz]" * (len(choice.suffixes) > 1)
            for choice in choices
        )
        tried = "and downloads are switched off (download=False)"
        if self._download:
            tried = "and could not be downloaded"
        lines = [f"data set {self._dataset!r}: {names} is not on disk {tried}.", "Looked in:"]
        lines += [f"  {root} ({source})" for source, root in self._roots.items()]
        if failures:
            lines += ["Tried to download:", *(f"  {failure}" for failure in failures)]
        addresses = next((choice.addresses for choice in choices if choice.addresses), ())
        what = f"the file of {' or '.join(addresses)}" if addresses else "the file"
        target = next(iter(self._roots.values())) / folder
        lines += [
            f"What to do: put {what} into {target},",
            f"or name the folder above {folder}/ with --data-dir, root= or ${ROOT_VARIABLE}.",
        ]
        return "\n".join(lines)


def read_verified(path: Path, file: PublishedFile) -> bytes:
    """Read, decompress, and verify the file at ``path``, which is never changed.

    Raises:
        DatasetCorruptError: the file is truncated, damaged, or not the published one.
        DatasetError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            content = _decompressed(stream, file)
    except _DAMAGE as error:
        problem = f"its compressed stream is truncated or damaged ({error})"
        raise _corrupt(path, file, problem) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    return _verified(content, path, file)


def _verified(content: bytes, path: Path, file: PublishedFile) -> bytes:
    """The content of a file, or of a member of the archive at ``path``, if it is as published."""
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
    """Read at most one byte more than the file may contain."""
    # By content, not by name: some browsers decompress downloads without renaming them.
    start = stream.read(6) if len(file.suffixes) > 1 else b""
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(stream) as gz:
            return gz.read(file.limit + 1)
    if start == b"\xfd7zXZ\x00":
        with lzma.open(stream) as xz:
            return xz.read(file.limit + 1)
    return stream.read(file.limit + 1)


def _members(path: Path, archive: PublishedFile, limit: int) -> dict[str, bytes]:
    """The regular files of at most ``limit`` bytes in a tar archive, by name without folders.

    Links, devices, and sparse files, whose size says nothing about what they hold, are passed over.
    """
    members: dict[str, bytes] = {}
    content = read_verified(path, archive)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                if member.isreg() and not member.issparse() and member.size <= limit:
                    stream = cast(IO[bytes], tar.extractfile(member))
                    members[Path(member.name).name] = stream.read()
    except (*_DAMAGE, tarfile.TarError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise _corrupt(path, archive, f"it is not an intact tar archive ({reason})") from error
    return members


def _corrupt(path: Path, file: PublishedFile, problem: str) -> DatasetCorruptError:
    addresses = " or ".join((file.archive or file).addresses)
    remedy = "replace it with the published file"
    if addresses:
        remedy = f"delete it to download it again, or replace it with {addresses}"
    return DatasetCorruptError(f"{path} is not the published {file.name}: {problem}. {remedy}.")
