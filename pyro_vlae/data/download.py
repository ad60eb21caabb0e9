"""Fetch a published file into the user cache, trying its addresses in turn."""

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import pooch
import requests

CONNECT_SECONDS = 4.0
"""How long one host may take to accept a connection or to answer."""

READ_SECONDS = 20.0
"""How long a download that has begun may stall."""


def _reason(error: Exception) -> str:
    """Say in a few words why a request failed: its own message runs over several lines."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.Timeout):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate could not be verified"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return "the connection failed"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "what it sent is not the published file (wrong checksum); discarded"
    return f"{type(error).__name__}: {error}"


def _trouble(url: str) -> Exception | None:
    """Return what is wrong with ``url``, or None if it answers within seconds.

    In a thread of its own, because a name lookup without a network obeys no timeout.
    """
    outcome: SimpleQueue[Exception | None] = SimpleQueue()

    def attempt() -> None:
        try:
            with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
                response.raise_for_status()
        except Exception as error:  # whatever it is, the next mirror is to be tried
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return outcome.get(timeout=CONNECT_SECONDS)
    except Empty:
        return requests.ConnectTimeout()


class Downloader:
    """Downloads the files of one data set; a host that did not answer is not asked again."""

    def __init__(self) -> None:
        self._dead_hosts: dict[str, Exception] = {}

    def fetch(
        self, mirrors: Sequence[str], name: str, checksum: str, folder: Path
    ) -> tuple[Path | None, list[str]]:
        """Download ``name`` into ``folder`` from the first mirror that has it.

        The file appears under its name only when it is complete and its checksum is right.

        Args:
            mirrors: Addresses of folders, each ending in a slash.
            name: The file's name there and here.
            checksum: ``"algorithm:digest"`` of the file as it is served.
            folder: Where to put it; made if need be.

        Returns:
            The file, or None, and the addresses that failed, each with its reason.
        """
        failures: list[str] = []
        for mirror in mirrors:
            url = mirror + name
            host = "{0.scheme}://{0.netloc}".format(urlsplit(url))
            trouble = self._dead_hosts.get(host) or _trouble(url)
            if trouble is None:
                try:
                    return self._retrieve(url, name, checksum, folder), failures
                except (OSError, ValueError) as error:  # requests' errors are OSErrors
                    trouble = error
            elif not isinstance(trouble, requests.HTTPError):  # a 404 is about this file only
                self._dead_hosts[host] = trouble
            failures.append(f"{url}: {_reason(trouble)}")
        return None, failures

    @staticmethod
    def _retrieve(url: str, name: str, checksum: str, folder: Path) -> Path:
        http = pooch.HTTPDownloader(
            progressbar=True, chunk_size=1 << 16, timeout=(CONNECT_SECONDS, READ_SECONDS)
        )
        return Path(pooch.retrieve(url, checksum, fname=name, path=folder, downloader=http))
