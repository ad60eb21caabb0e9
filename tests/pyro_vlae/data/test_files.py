"""Where files are looked for, and what is said about damaged ones (which are never touched)."""

import gzip
import hashlib
import io
import logging
import lzma
import tarfile

import pytest

from pyro_vlae.data import DatasetCorruptError, DatasetError, DatasetNotFoundError, files
from pyro_vlae.data.files import FileStore, PublishedFile, read_verified
from pyro_vlae.data.formats import FormatError

CONTENT = b"the published content " * 50
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
FILE = PublishedFile("mnist", "images", CHECKSUM, "images", CHECKSUM)
SECOND = PublishedFile("mnist", "rebuilt", "md5:" + hashlib.md5(CONTENT).hexdigest())


def identity(content):
    return content


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty data root, $PYRO_VLAE_DATA and cache, and no network."""
    places = {name: tmp_path / name for name in ("root", "env", "cache")}
    for place in places.values():
        (place / "mnist").mkdir(parents=True)
    monkeypatch.setenv("PYRO_VLAE_DATA", str(places["env"]))
    monkeypatch.setattr(files, "user_cache", lambda: places["cache"])
    monkeypatch.setitem(files.MIRRORS, "mnist", ())
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
        store.load(FILE, identity)
        store.load(FILE, identity)
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
    monkeypatch.setattr(store._downloader, "fetch", refuse)
    assert store.load_if_on_disk(FILE, identity) is None
    for place in reversed(places.values()):
        (place / "mnist" / "images").write_bytes(CONTENT)
        assert store.load_if_on_disk(FILE, identity) == CONTENT
    assert not caplog.messages
    (places["root"] / "mnist" / "images").write_bytes(CONTENT[:-1])
    with pytest.raises(DatasetCorruptError, match="root"):
        store.load_if_on_disk(FILE, identity)


def test_nothing_is_said_when_the_first_folder_has_it(places, caplog):
    (places["root"] / "mnist" / "images").write_bytes(CONTENT)
    FileStore("x", places["root"], download=True).load(FILE, identity)
    assert not caplog.messages


@pytest.mark.parametrize("download", [True, False])
def test_not_found(places, monkeypatch, download):
    monkeypatch.setitem(files.MIRRORS, "mnist", ("http://127.0.0.1:9/m/",))  # refuses
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DatasetNotFoundError) as caught:
        FileStore("some-set", places["root"], download).load(FILE, identity)
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
    assert FileStore("x", places["root"], download=False).load(FILE, identity) == CONTENT


def refuse(content):
    raise FormatError("it is something else")


def truncated(content):
    return gzip.compress(content)[:-20]


def damaged(content):
    stream = bytearray(gzip.compress(content))
    stream[-30] ^= 0xFF
    return bytes(stream)


@pytest.mark.parametrize(
    ("spoil", "decode", "message"),
    [
        (truncated, identity, "gzip stream is truncated or damaged"),
        (damaged, identity, "gzip stream is truncated or damaged"),
        (lambda content: lzma.compress(content)[:-20], identity, "xz stream is truncated or damag"),
        (lambda content: content[:-1], identity, f"sha256 of its {len(CONTENT) - 1} bytes is"),
        (lambda content: b"", identity, "sha256 of its 0 bytes is"),
        (lambda content: content, refuse, "it is something else"),
    ],
    ids=["truncated", "damaged", "xz", "short", "empty", "format"],
)
def test_corrupt_files_are_named_and_left_alone(places, spoil, decode, message):
    path = places["root"] / "mnist" / "images.gz"
    path.write_bytes(spoil(CONTENT))
    before = path.read_bytes()
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        FileStore("x", places["root"], download=True).load(FILE, decode)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["images.gz"]


def test_other_checksum_algorithms(places):
    path = places["root"] / "mnist" / "rebuilt"
    path.write_bytes(CONTENT)
    assert read_verified(path, SECOND, identity) == CONTENT
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(DatasetCorruptError, match=r"the md5 of its.*replace it with the published"):
        read_verified(path, SECOND, identity)


def test_unreadable_file(places):
    with pytest.raises(DatasetError, match="mnist cannot be read: Is a directory"):
        read_verified(places["root"] / "mnist", FILE, identity)


ARCHIVE = PublishedFile("mnist", "all.tar.gz", "md5:0", "all.tar.gz", "md5:0")
PACKED = PublishedFile("mnist", "images", CHECKSUM, archive=ARCHIVE)


def write_archive(path, **members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_an_archive_will_do_instead_of_its_files(places):
    store = FileStore("x", places["root"], download=False)
    write_archive(places["env"] / "mnist" / "all.tar.gz", images=CONTENT, more=b"")
    assert store.load(PACKED, identity) == CONTENT
    other = b"another file of the archive"
    checksum = "sha256:" + hashlib.sha256(other).hexdigest()
    (places["root"] / "mnist" / "more").write_bytes(other)  # a file of its own counts where it is
    assert store.load(PublishedFile("mnist", "more", checksum, archive=ARCHIVE), identity) == other


@pytest.mark.parametrize(
    ("members", "cut", "message"),
    [
        ({"images": CONTENT[:-1]}, 0, "is not the published images: the sha256"),
        ({"others": CONTENT}, 0, r"is not the published all\.tar\.gz: it does not hold images"),
        ({"images": CONTENT}, 30, "it is no whole tar archive"),
        ({}, 10_000, "it is no whole tar archive"),
    ],
)
def test_corrupt_archives_are_named_and_left_alone(places, members, cut, message):
    path = places["root"] / "mnist" / "all.tar.gz"
    write_archive(path, **members)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        FileStore("x", places["root"], download=False).load(PACKED, identity)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)
    assert path.exists()


def test_where_neither_file_nor_archive_is_the_archive_is_what_to_get(places, monkeypatch):
    monkeypatch.setitem(files.MIRRORS, "mnist", ("http://127.0.0.1:9/m/",))
    with pytest.raises(DatasetNotFoundError) as caught:
        FileStore("x", places["root"], download=False).load(PACKED, identity)
    summary, *details = str(caught.value).splitlines()
    assert "mnist/images[.gz|.xz] or mnist/all.tar.gz is not on disk" in summary
    assert "put the file of http://127.0.0.1:9/m/all.tar.gz into" in "".join(details)
