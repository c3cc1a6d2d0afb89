"""One file over HTTPS: resumed where it broke off, checked, and in its place only when it is whole."""

import contextlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import wrap_file

from cifar_jax.errors import DataError
from cifar_jax.files.sha256 import digest, record, recorded

try:
    import fcntl
except ImportError:  # Windows: two processes that download one file at a time may spoil it, which its hash shows
    fcntl = None

TIMEOUT_SECONDS = 20.0  # without an answer or further bytes


def fetch(url: str, folder: Path, *, published: str) -> tuple[Path, str]:
    """The file at `url` in `folder`, downloaded if it is not there yet, and its sha256.

    A second process that wants the same file waits for the first.

    Args:
        published: 'md5:' or 'sha256:' and the first digits or all of them; '' = no checksum is published.

    Raises:
        DataError: it cannot be had, is not what was published, or has changed since it was downloaded.
    """
    path = folder / "/".join(url.split("/")[3:])  # the same name may lie on two hosts' paths
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f"{path.name}.lock")):
            if not path.exists():
                _download(url, path, published)
            return path, _unchanged(path)
    except (OSError, http.client.HTTPException) as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{url} cannot be downloaded ({cause}): fetch it elsewhere and give its path in place of the name"
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url: str, path: Path, published: str) -> None:
    part, version = (path.with_name(f"{path.name}.{ending}") for ending in ("part", "version"))
    _append(url, part, version)
    algorithm, _, digits = published.partition(":")
    found = digest(part, algorithm or "sha256")
    if not found.startswith(digits):
        part.unlink()
        raise DataError(f"{url}: {algorithm} {found}, published is {digits}; removed, try again")
    record(path, digest(part))
    os.replace(part, path)
    version.unlink()


def _append(url: str, part: Path, version: Path) -> None:
    """Downloads what `part` lacks, or all of it where the server's file is no longer the one that `version` notes."""
    request = urllib.request.Request(url)
    if part.exists() and version.exists():
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", version.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is missing: the process ended between the last byte and the check
    with response:
        version.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "none")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        missing = int(response.headers.get("Content-Length", 0))
        console, silent = Console(stderr=True), not sys.stderr.isatty()
        with (
            open(part, "ab" if resumed else "wb") as file,
            wrap_file(response, missing, description=part.stem, console=console, disable=silent) as reader,
        ):
            received = 0
            while chunk := reader.read(1 << 20):
                received += file.write(chunk)
    if received < missing:
        raise OSError(f"broke off after {received:,} of {missing:,} bytes; the next try goes on from there")


def _unchanged(path: Path) -> str:
    """The sha256 of a downloaded file, which must be the one it had when it came."""
    found = digest(path)
    if found != recorded(path):
        raise DataError(f"{path}: damaged since it was downloaded (its sha256 differs); delete it")
    return found
