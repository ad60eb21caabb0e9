"""Downloading a published file from the first mirror that has it."""

from collections.abc import Sequence
from pathlib import Path

import pooch
import requests

TIMEOUT = (4.0, 7.0)
"""Timeouts, in seconds, for accepting a connection and for sending the next bytes."""


def download(
    addresses: Sequence[str], checksum: str, folder: Path, dead: dict[str, str]
) -> tuple[Path | None, list[str]]:
    """Download a file into ``folder``, where it appears only once it is complete and verified.

    Args:
        addresses: addresses of the file, each ending in its name.
        checksum: ``"algorithm:digest"`` of the file as it is served.
        folder: where to put it; created if it does not exist.
        dead: mirrors that did not answer, with the reasons. They are skipped; new ones are added.

    Returns:
        The path, or None if all addresses failed, and the failed addresses with their reasons.
    """
    http = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16, timeout=TIMEOUT)
    failures: list[str] = []
    for address in addresses:
        mirror, _, name = address.rpartition("/")
        reason = dead.get(mirror)
        if reason is None:
            try:
                path = pooch.retrieve(address, checksum, name, folder, downloader=http)
                return Path(path), failures
            except (OSError, ValueError) as error:  # requests' errors are OSErrors
                reason = _reason(error)
                if isinstance(error, (requests.ConnectionError, requests.Timeout)):
                    dead[mirror] = reason
        failures.append(f"{address}: {reason}")
    return None, failures


def _reason(error: Exception) -> str:
    """Describe in one line why a download failed."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.RequestException):  # its message has several lines
        return f"the connection failed ({type(error).__name__})"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "the downloaded file is not the published one (wrong checksum) and was discarded"
    return f"{type(error).__name__}: {error}"
