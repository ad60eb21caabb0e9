"""Find the published files of a data set on disk or fetch them, then decode and verify them.

A file is looked for in the folder given as ``root``, then in ``$PYRO_VLAE_DATA``, then in the user
cache, into which it is downloaded if it is nowhere. The first two are only ever read.
"""

import gzip
import hashlib
import logging
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pooch

from pyro_vlae.data.download import Downloader
from pyro_vlae.data.errors import DatasetCorruptError, DatasetError, DatasetNotFoundError
from pyro_vlae.data.formats import FormatError

ROOT_VARIABLE = "PYRO_VLAE_DATA"

MIRRORS: dict[str, tuple[str, ...]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "binarized_mnist": (
        "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    ),
    "omniglot": ("https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/",),
    "caltech101_silhouettes": ("https://people.cs.umass.edu/~marlin/data/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
}
"""Addresses of the original, public copies by folder, in the order in which they are tried."""

_GZIP_MAGIC, _XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\x00"
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError)
_log = logging.getLogger(__name__)
_Decoded = TypeVar("_Decoded")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set: where it lives, and how to know that it is the right one.

    Args:
        folder: Its folder below a data root.
        name: Its name when not compressed; with ".gz" or ".xz" after it is accepted too.
        checksum: ``"algorithm:digest"`` of the content when not compressed.
        served_name: The name under which the mirrors hold it; None if no mirror does.
        served_checksum: ``"algorithm:digest"`` of the file as the mirrors serve it.
        archive: A tar file that will do instead, since it holds this file under its name.
    """

    folder: str
    name: str
    checksum: str
    served_name: str | None = None
    served_checksum: str = ""
    archive: "PublishedFile | None" = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What may follow the name: that of a compression, unless the name has one."""
        return ("",) if self.name.endswith(".gz") else ("", ".gz", ".xz")

    @property
    def mirrors(self) -> tuple[str, ...]:
        """Addresses of the folders that serve this file."""
        return MIRRORS[self.folder] if self.served_name else ()

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
        download: Whether a file that is nowhere on disk may be downloaded.
    """

    def __init__(self, dataset: str, root: str | os.PathLike[str] | None, download: bool) -> None:
        self._dataset = dataset
        self._download = download
        self._cache = user_cache()
        self._own_roots: list[tuple[str, Path]] = []  # what the user named, and how
        if root is not None:
            self._own_roots.append(("the data folder given", Path(root).expanduser()))
        if os.environ.get(ROOT_VARIABLE):
            variable = Path(os.environ[ROOT_VARIABLE]).expanduser()
            self._own_roots.append((f"${ROOT_VARIABLE}", variable))
        for what, folder in self._own_roots:
            if not os.path.isdir(folder):
                raise DatasetError(
                    f"{what}, {folder}, is not a folder: correct it, or leave it out to use the "
                    "user cache"
                )
        self._downloader = Downloader()
        self._told: set[Path] = set()
        self._archives: dict[Path, dict[str, bytes]] = {}

    def find(self, *choices: PublishedFile) -> tuple[Path, PublishedFile]:
        """Return the first of ``choices`` that the first folder to have any of them has.

        Raises:
            DatasetNotFoundError: None is on disk, and none could be downloaded.
        """
        if (found := self._on_disk(choices)) is not None:
            self._tell_what_was_passed_over(choices, found[0])
            return found
        failures = []
        for choice in choices:
            if self._download and choice.served_name is not None:
                folder = self._cache / choice.folder
                path, failed = self._downloader.fetch(
                    choice.mirrors, choice.served_name, choice.served_checksum, folder
                )
                failures += failed
                if path is not None:
                    self._tell_what_was_passed_over(choices, path)
                    return path, choice
        raise DatasetNotFoundError(self._not_found(choices, failures))

    def load(self, file: PublishedFile, decode: Callable[[bytes], _Decoded]) -> _Decoded:
        """Find ``file`` and return its decoded, verified content.

        Raises:
            DatasetNotFoundError: It is neither on disk nor downloadable.
            DatasetCorruptError: It is not the published file.
            DatasetError: It cannot be read.
        """
        path, found = self.find(*filter(None, (file, file.archive)))
        if found is file:
            return read_verified(path, file, decode)
        if path not in self._archives:
            self._archives[path] = _members(path, found)
        if file.name not in self._archives[path]:
            raise _corrupt(path, found, f"it does not hold {file.name}")
        return _verified(self._archives[path][file.name], path, file, decode)

    def load_if_on_disk(
        self, file: PublishedFile, decode: Callable[[bytes], _Decoded]
    ) -> _Decoded | None:
        """Likewise for a file that can be done without: None if no folder has it, no download."""
        found = self._on_disk([file])
        return None if found is None else read_verified(found[0], file, decode)

    def _on_disk(self, choices: Sequence[PublishedFile]) -> tuple[Path, PublishedFile] | None:
        """The first of the choices that the first folder to have any of them has."""
        for root in [*(path for _, path in self._own_roots), self._cache]:
            for choice in choices:
                path = choice.inside(root)
                if path is not None:
                    return path, choice
        return None

    def _tell_what_was_passed_over(self, choices: Sequence[PublishedFile], path: Path) -> None:
        """Say once a folder that a folder the user named does not have the file."""
        for how, root in self._own_roots:
            if root in path.parents:
                return
            if root not in self._told:
                self._told.add(root)
                lacks = f"{choices[0].folder}/{choices[0].name}"
                _log.warning(
                    "%s: %s (%s) has no %s; using %s", self._dataset, root, how, lacks, path
                )

    def _not_found(self, choices: Sequence[PublishedFile], failures: Sequence[str]) -> str:
        file = choices[0]
        names = " or ".join(
            f"{file.folder}/{choice.name}" + "[.gz|.xz]" * (len(choice.suffixes) > 1)
            for choice in choices
        )
        if self._download:
            tried = "and could not be downloaded"
        else:
            tried = "and downloads are switched off (download=False)"
        searched = [f"{root} ({how})" for how, root in self._own_roots]
        searched.append(f"{self._cache} (the user cache)")
        target = (self._own_roots[0][1] if self._own_roots else self._cache) / file.folder
        lines = [f"data set {self._dataset!r}: {names} is not on disk {tried}."]
        lines += ["Looked in:", *(f"  {place}" for place in searched)]
        if failures:
            lines += ["Tried to download:", *(f"  {failure}" for failure in failures)]
        served = next((choice for choice in choices if choice.served_name), None)
        if served is not None:
            addresses = " or ".join(f"{mirror}{served.served_name}" for mirror in served.mirrors)
            lines.append(f"What to do: put the file of {addresses} into {target},")
        else:
            lines.append(f"What to do: put the file into {target},")
        lines.append(
            f"or name the folder above {file.folder}/ with --data-dir, root= or ${ROOT_VARIABLE}."
        )
        return "\n".join(lines)


def read_verified(path: Path, file: PublishedFile, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    """Read, uncompress, decode and verify the file at ``path``, which is left as it is.

    Decoding comes first, since it can say what is wrong; the checksum covers the rest.

    Raises:
        DatasetCorruptError: It is truncated, of another kind or shape, or otherwise not the
            published file.
        DatasetError: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        # By content, not by name: browsers like to uncompress on the way without renaming.
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        elif content.startswith(_XZ_MAGIC):
            content = lzma.decompress(content)
    except _DAMAGED as error:
        kind = "gzip" if content.startswith(_GZIP_MAGIC) else "xz"
        problem = f"its {kind} stream is truncated or damaged ({error})"
        raise _corrupt(path, file, problem) from error
    return _verified(content, path, file, decode)


def _verified(
    content: bytes, path: Path, file: PublishedFile, decode: Callable[[bytes], _Decoded]
) -> _Decoded:
    """Decode and verify the uncompressed content of ``file``, read from ``path``."""
    try:
        decoded = decode(content)
    except FormatError as error:
        raise _corrupt(path, file, str(error)) from error
    algorithm, expected = file.checksum.split(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise _corrupt(
            path,
            file,
            f"the {algorithm} of its {len(content)} bytes is {found}, the published {expected}",
        )
    return decoded


def _members(path: Path, file: PublishedFile) -> dict[str, bytes]:
    """The files in a tar archive by their names, whatever folder they are in."""
    members = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    members[Path(member.name).name] = stream.read()
    except PermissionError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except _DAMAGED as error:
        raise _corrupt(path, file, f"it is no whole tar archive ({error})") from error
    return members


def _corrupt(path: Path, file: PublishedFile, problem: str) -> DatasetCorruptError:
    remedy = "replace it with the published file"
    served = file.archive or file
    if served.served_name is not None:
        addresses = " or ".join(f"{mirror}{served.served_name}" for mirror in served.mirrors)
        remedy = f"delete it, so that it is downloaded anew, or replace it with {addresses}"
    return DatasetCorruptError(f"{path} is not the published {file.name}: {problem}. {remedy}.")
