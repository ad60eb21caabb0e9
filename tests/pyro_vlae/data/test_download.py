"""Downloads from servers on this machine: good, damaged, refusing, silent, and in turn."""

import gzip
import hashlib
import os
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pyro_vlae.data import DatasetNotFoundError, files, readers
from pyro_vlae.data import download as module
from pyro_vlae.data.download import download
from pyro_vlae.data.files import FileStore, PublishedFile

CONTENT = b"the published content " * 5000
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and counts requests; breaks off in the middle of those below /broken/."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path.startswith("/broken/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        else:
            super().do_GET()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    for name, content in (("good", CONTENT), ("corrupt", CONTENT[::-1])):
        (folder / name).mkdir(parents=True)
        (folder / name / "images").write_bytes(content)
        (folder / name / "labels").write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server, folder):
    return f"http://127.0.0.1:{server.server_address[1]}/{folder}/"


@pytest.fixture
def dead():
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


@pytest.fixture
def silent():
    """An address that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def fetch(mirrors, folder, name="images", dead=None):
    addresses = [mirror + name for mirror in mirrors]
    return download(addresses, CHECKSUM, folder, {} if dead is None else dead)


def test_a_good_file_arrives(server, tmp_path):
    path, failures = fetch([address(server, "good")], tmp_path / "cache" / "mnist")
    assert path == tmp_path / "cache" / "mnist" / "images"
    assert path.read_bytes() == CONTENT
    assert failures == []


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("corrupt", "wrong checksum"),
        ("broken", "the connection failed"),
        ("missing", "answered 404"),
    ],
)
def test_a_bad_mirror_leaves_nothing_behind_and_the_next_is_tried(server, tmp_path, folder, reason):
    cache = tmp_path / "cache"
    path, failures = fetch([address(server, folder)], cache)
    assert path is None
    assert reason in failures[0]
    assert address(server, folder) + "images" in failures[0]
    assert not cache.exists() or not os.listdir(cache)
    path, failures = fetch([address(server, folder), address(server, "good")], cache)
    assert path.read_bytes() == CONTENT
    assert len(failures) == 1
    assert os.listdir(cache) == ["images"]


def test_a_dead_mirror_is_passed_over(server, dead, tmp_path):
    path, failures = fetch([dead, address(server, "good")], tmp_path)
    assert path.read_bytes() == CONTENT
    assert failures == [f"{dead}images: the connection failed (ConnectionError)"]


def test_a_silent_host_costs_seconds_and_is_asked_once(server, silent, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (0.4, 0.4))
    mirrors, known = [silent, address(server, "good")], {}
    start = time.monotonic()
    path, failures = fetch(mirrors, tmp_path, "images", known)
    first = time.monotonic() - start
    assert path is not None
    assert failures == [f"{silent}images: no answer in time"]
    assert 0.3 < first < 3
    start = time.monotonic()
    path, failures = fetch(mirrors, tmp_path, "labels", known)
    assert path is not None
    assert failures == [f"{silent}labels: no answer in time"]
    assert time.monotonic() - start < 0.3


def test_no_file_can_take_longer_than_fifteen_seconds_to_be_missed():
    known = [value for value in vars(readers).values() if isinstance(value, PublishedFile)]
    known += [*readers._STATIC_MNIST, *readers._MNIST, *readers._CIFAR]
    assert max(len(file.mirrors) for file in known) * max(module.TIMEOUT) < 15
    assert all(mirror.endswith("/") for file in known for mirror in file.mirrors)


def test_an_answer_about_one_file_does_not_condemn_the_host(server, tmp_path):
    (tmp_path / "served" / "good" / "images").unlink()
    mirrors, known = [address(server, "good")], {}
    assert fetch(mirrors, tmp_path, "images", known)[0] is None
    assert fetch(mirrors, tmp_path, "labels", known)[0] is not None


def test_an_unwritable_cache_is_named(server, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    path, failures = fetch([address(server, "good")], blocked / "mnist")
    assert path is None
    assert str(blocked) in failures[0]


def test_the_store_downloads_into_the_cache_and_only_there(server, dead, tmp_path, monkeypatch):
    cache, root = tmp_path / "cache", tmp_path / "root"
    root.mkdir()
    monkeypatch.delenv("PYRO_VLAE_DATA", raising=False)
    monkeypatch.setattr(files, "user_cache", lambda: cache)
    file = PublishedFile("mnist", "images", CHECKSUM, 10**6, (dead, address(server, "good")))
    assert FileStore("x", root, download=True).read(file) == CONTENT
    assert (cache / "mnist" / "images").read_bytes() == CONTENT
    assert os.listdir(root) == []
    asked = len(server.requests)
    assert FileStore("x", root, download=True).read(file) == CONTENT
    assert len(server.requests) == asked  # the second time from the cache


def test_mirrors_may_serve_a_file_compressed(server, tmp_path, monkeypatch):
    monkeypatch.delenv("PYRO_VLAE_DATA", raising=False)
    monkeypatch.setattr(files, "user_cache", lambda: tmp_path / "cache")
    served = gzip.compress(CONTENT)
    (tmp_path / "served" / "good" / "images.gz").write_bytes(served)
    gz_checksum = "sha256:" + hashlib.sha256(served).hexdigest()
    mirrors = (address(server, "good"),)
    file = PublishedFile("mnist", "images", CHECKSUM, len(CONTENT), mirrors, gz_checksum)
    assert FileStore("x", None, download=True).read(file) == CONTENT
    assert os.listdir(tmp_path / "cache" / "mnist") == ["images.gz"]


def test_the_store_says_what_each_mirror_answered(server, dead, tmp_path, monkeypatch):
    monkeypatch.delenv("PYRO_VLAE_DATA", raising=False)
    monkeypatch.setattr(files, "user_cache", lambda: tmp_path / "cache")
    file = PublishedFile("mnist", "images", CHECKSUM, 10**6, (dead, address(server, "corrupt")))
    with pytest.raises(DatasetNotFoundError) as caught:
        FileStore("x", None, download=True).read(file)
    assert f"{dead}images: the connection failed" in str(caught.value)
    assert "wrong checksum" in str(caught.value)
    server.requests.clear()
    with pytest.raises(DatasetNotFoundError):
        FileStore("x", None, download=False).read(file)
    assert server.requests == []
