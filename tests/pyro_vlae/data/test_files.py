"""Where files are looked for, and what is said about damaged ones (which are never touched)."""

import gzip
import hashlib
import io
import logging
import lzma
import tarfile
import tracemalloc

import pytest

from pyro_vlae.data import DatasetCorruptError, DatasetError, DatasetNotFoundError, files
from pyro_vlae.data.files import FileStore, PublishedFile, read_verified

CONTENT = b"the published content " * 50
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MIRRORS = ("http://127.0.0.1:9/m/",)  # refuses
FILE = PublishedFile("mnist", "images", CHECKSUM, len(CONTENT), MIRRORS)
SECOND = PublishedFile("mnist", "rebuilt", "md5:" + hashlib.md5(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty data root, $PYRO_VLAE_DATA and cache, and no network."""
    places = {name: tmp_path / name for name in ("root", "env", "cache")}
    for place in places.values():
        (place / "mnist").mkdir(parents=True)
    monkeypatch.setenv("PYRO_VLAE_DATA", str(places["env"]))
    monkeypatch.setattr(files, "user_cache", lambda: places["cache"])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return places


def test_order_of_places(places):
    for place, path in reversed(places.items()):
        (path / "mnist" / "images").write_bytes(CONTENT)
        found, _ = FileStore("x", places["root"], download=True).find(FILE)
        assert found == path / "mnist" / "images", place


def test_without_root_and_variable_the_cache_is_used(places, monkeypatch):
    monkeypatch.setenv("PYRO_VLAE_DATA", "")
    for place in places.values():
        (place / "mnist" / "images").write_bytes(CONTENT)
    found, _ = FileStore("x", None, download=True).find(FILE)
    assert found.parent.parent == places["cache"]


def test_the_first_choice_is_preferred_in_each_folder(places):
    (places["env"] / "mnist" / "images").write_bytes(CONTENT)
    (places["env"] / "mnist" / "rebuilt").write_bytes(CONTENT)
    store = FileStore("x", places["root"], download=True)
    assert store.find(FILE, SECOND)[1] is FILE
    (places["root"] / "mnist" / "rebuilt").write_bytes(CONTENT)  # the folder counts first
    assert store.find(FILE, SECOND)[1] is SECOND


def test_a_folder_passed_over_is_named_once(places, caplog):
    (places["cache"] / "mnist" / "images").write_bytes(CONTENT)
    store = FileStore("x", places["root"], download=True)
    with caplog.at_level(logging.WARNING):
        store.read(FILE)
        store.read(FILE)
    first, second = caplog.messages
    assert "root (the data folder given) has no mnist/images; using" in first
    assert "env ($PYRO_VLAE_DATA) has no mnist/images; using" in second


def test_a_folder_that_was_named_must_exist(places, monkeypatch):
    """A misspelt folder must not end in another data set, or in a download."""
    with pytest.raises(DatasetError, match=r"the data folder given, .*typo, is not a folder"):
        FileStore("x", places["root"] / "typo", download=True)
    monkeypatch.setenv("PYRO_VLAE_DATA", str(places["root"] / "typo"))
    with pytest.raises(DatasetError, match=r"\$PYRO_VLAE_DATA, .*typo, is not a folder"):
        FileStore("x", None, download=True)


def test_what_can_be_done_without_is_not_downloaded(places, monkeypatch, caplog):
    def refuse(*args):
        pytest.fail("asked the network")

    store = FileStore("x", places["root"], download=True)
    monkeypatch.setattr(files, "download", refuse)
    assert store.read_if_on_disk(FILE) is None
    for place in reversed(places.values()):
        (place / "mnist" / "images").write_bytes(CONTENT)
        assert store.read_if_on_disk(FILE) == CONTENT
    assert not caplog.messages
    (places["root"] / "mnist" / "images").write_bytes(CONTENT[:-1])
    with pytest.raises(DatasetCorruptError, match="root"):
        store.read_if_on_disk(FILE)


def test_nothing_is_said_when_the_first_folder_has_it(places, caplog):
    (places["root"] / "mnist" / "images").write_bytes(CONTENT)
    FileStore("x", places["root"], download=True).read(FILE)
    assert not caplog.messages


@pytest.mark.parametrize("download", [True, False])
def test_not_found(places, download):
    with pytest.raises(DatasetNotFoundError) as caught:
        FileStore("some-set", places["root"], download).read(FILE)
    summary, *details = str(caught.value).splitlines()
    text = "\n".join(details)
    assert "some-set" in summary
    assert "mnist/images" in summary
    for place in places.values():
        assert str(place) in text
    assert f"put the file of http://127.0.0.1:9/m/images into {places['root'] / 'mnist'}" in text
    for way in ("--data-dir", "root=", "$PYRO_VLAE_DATA"):
        assert way in text
    if download:
        assert "http://127.0.0.1:9/m/images: the connection failed" in text
    else:
        assert "download=False" in summary
        assert "Tried" not in text
    assert isinstance(caught.value, DatasetError)


@pytest.mark.parametrize("name", ["images", "images.gz", "images.xz"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress])
def test_compressed_or_not_whatever_the_name(places, name, compress):
    path = places["root"] / "mnist" / name
    path.write_bytes(compress(CONTENT))
    assert FileStore("x", places["root"], download=False).read(FILE) == CONTENT


def truncated(content):
    return gzip.compress(content)[:-20]


def damaged(content):
    stream = bytearray(gzip.compress(content))
    stream[-30] ^= 0xFF
    return bytes(stream)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "compressed stream is truncated or damaged"),
        (damaged, "compressed stream is truncated or damaged"),
        (lambda content: lzma.compress(content)[:-20], "stream is truncated or damaged"),
        (lambda content: content[:-1], f"sha256 of its {len(CONTENT) - 1:,} bytes, which begin"),
        (lambda content: b"", "sha256 of its 0 bytes is"),
        (lambda content: b"<!DOCTYPE html><html>", "which begin with b'<!DOCTYPE html>"),
        (lambda content: content + b"!", f"it has more than {len(CONTENT):,} bytes"),
    ],
    ids=["truncated", "damaged", "xz", "short", "empty", "page", "long"],
)
def test_corrupt_files_are_named_and_left_alone(places, spoil, message):
    path = places["root"] / "mnist" / "images.gz"
    path.write_bytes(spoil(CONTENT))
    before = path.read_bytes()
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        FileStore("x", places["root"], download=True).read(FILE)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["images.gz"]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_decompression_stops_at_the_known_size(places, compress):
    path = places["root"] / "mnist" / "images.gz"
    path.write_bytes(compress(bytes(10**8)))
    tracemalloc.start()
    with pytest.raises(DatasetCorruptError, match=f"it has more than {len(CONTENT):,} bytes"):
        FileStore("x", places["root"], download=False).read(FILE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 10**7  # the dictionary of xz, not the content


def test_other_checksum_algorithms(places):
    path = places["root"] / "mnist" / "rebuilt"
    path.write_bytes(CONTENT)
    assert read_verified(path, SECOND) == CONTENT
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DatasetCorruptError, match=r"the md5 of its.*replace it with the published"):
        read_verified(path, SECOND)


def test_unreadable_file(places):
    with pytest.raises(DatasetError, match="mnist cannot be read: Is a directory"):
        read_verified(places["root"] / "mnist", FILE)


def tar(*members):
    """A compressed archive of members, each a name and its content or attributes of a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(f"folder/{name}")
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname, member.size = content
                archive.addfile(member)
    return stream.getvalue()


OTHER = b"another file of the archive"
GOOD = tar(("images", CONTENT), ("more", OTHER), ("link", (tarfile.SYMTYPE, "images", 0)))
MD5 = "md5:" + hashlib.md5(GOOD).hexdigest()
ARCHIVE = PublishedFile("mnist", "all.tar.gz", MD5, len(GOOD), MIRRORS)
PACKED = PublishedFile("mnist", "images", CHECKSUM, len(CONTENT), archive=ARCHIVE)


def test_an_archive_serves_instead_of_its_files(places):
    store = FileStore("x", places["root"], download=False)
    (places["env"] / "mnist" / "all.tar.gz").write_bytes(GOOD)
    assert store.read(PACKED) == CONTENT
    checksum = "sha256:" + hashlib.sha256(OTHER).hexdigest()
    (places["root"] / "mnist" / "more").write_bytes(OTHER)  # a file of its own counts where it is
    more = PublishedFile("mnist", "more", checksum, len(OTHER), archive=ARCHIVE)
    assert store.find(more, ARCHIVE)[1] is more
    assert store.read(more) == OTHER


@pytest.mark.parametrize(
    "content",
    [
        tar(("images", CONTENT[:-1])),
        tar(("others", CONTENT)),
        tar(("images", (tarfile.SYMTYPE, "nowhere", 0))),
        tar(("images", (tarfile.LNKTYPE, "folder/images", 0))),
        tar(("images", (tarfile.REGTYPE, "", 1 << 40))),
        GOOD[:-30],
        b"",
    ],
    ids=["changed", "others", "dangling", "loop", "terabyte", "short", "empty"],
)
def test_corrupt_archives_are_named_and_left_alone(places, content):
    """They are not even opened, whatever is wrong with their members."""
    path = places["root"] / "mnist" / "all.tar.gz"
    path.write_bytes(content)
    message = r"is not the published all\.tar\.gz: (the md5 of its .* bytes|it has more than)"
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        FileStore("x", places["root"], download=False).read(PACKED)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(("others", CONTENT)), "it holds no file images of at most"),
        (tar(("images", (tarfile.SYMTYPE, "nowhere", 0))), "it holds no file images"),
        (tar(("images", (tarfile.LNKTYPE, "folder/images", 0))), "it holds no file images"),
        (tar(("images", (tarfile.REGTYPE, "", 1 << 40))), "it is not an intact tar archive"),
        (tar(("images", CONTENT[::-1])), r"is not the published images: the sha256 of its"),
        (b"no archive", "it is not an intact tar archive"),
    ],
    ids=["missing", "dangling", "loop", "terabyte", "changed", "no-archive"],
)
def test_an_archive_that_is_as_published_may_still_not_hold_the_file(places, content, message):
    digest = "md5:" + hashlib.md5(content).hexdigest()
    archive = PublishedFile("mnist", "all.tar.gz", digest, len(content))
    file = PublishedFile("mnist", "images", CHECKSUM, len(CONTENT), archive=archive)
    (places["root"] / "mnist" / "all.tar.gz").write_bytes(content)
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        FileStore("x", places["root"], download=False).read(file)
    assert "all.tar.gz" in str(caught.value) and "\n" not in str(caught.value)


def test_where_neither_file_nor_archive_is_on_disk_the_archive_is_asked_for():
    with pytest.raises(DatasetNotFoundError) as caught:
        FileStore("x", None, download=False).read(PACKED)
    summary, *details = str(caught.value).splitlines()
    assert "mnist/images[.gz|.xz] or mnist/all.tar.gz is not on disk" in summary
    assert "put the file of http://127.0.0.1:9/m/all.tar.gz into" in "".join(details)
