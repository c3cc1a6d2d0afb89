"""Downloads over HTTPS that resume after an interruption and are checked before the file appears."""

import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import wrap_file

from cifar_jax.errors import DataError
from cifar_jax.files.checksums import checksum, record, recorded, require_published

try:
    import fcntl
except ImportError:  # Windows: two processes that download the same file may damage it, which its checksum shows
    fcntl = None

TIMEOUT_SECONDS = 10.0  # without an answer or further bytes


def fetch(url: str, path: Path, *, published: str) -> str:
    """Downloads `url` to `path` if there is no such file yet, and returns the file's sha256.

    A second process that needs the same file waits for the first.

    Args:
        published: 'md5:' or 'sha256:' and the checksum or its first digits; '' if no checksum is published.

    Raises:
        OSError: no network, no answer within 10 s, or no space.
        DataError: the file differs from the published checksum, or has changed since it was downloaded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _download(url, path, published)
        elif recorded(path) is None:  # the user's own download
            require_published(path, published, source=str(path))
            record(path, checksum(path))
        sha256 = checksum(path)
    if sha256 != recorded(path):
        raise DataError(f"{path}: damaged since it was downloaded (its sha256 differs); delete it")
    return sha256


def _download(url: str, path: Path, published: str) -> None:
    part, version = (path.with_name(f"{path.name}.{ending}") for ending in ("part", "version"))
    try:
        _append(url, part, version)
        require_published(part, published, source=url)
    except http.client.HTTPException as error:  # the one network error that is not an OSError
        raise ConnectionError(f"{url}: {type(error).__name__} {error}") from error
    except DataError:
        part.unlink()
        raise
    record(path, checksum(part))
    os.replace(part, path)
    version.unlink()


def _append(url: str, part: Path, version: Path) -> None:
    """Downloads what `part` lacks, or everything if the file on the server is no longer the one noted in `version`."""
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
        mode = "ab" if response.status == http.HTTPStatus.PARTIAL_CONTENT else "wb"
        missing = int(response.headers.get("Content-Length", 0))
        bar = {"description": part.stem, "console": Console(stderr=True), "disable": not sys.stderr.isatty()}
        received = 0
        with open(part, mode) as file, wrap_file(response, missing, **bar) as reader:
            while chunk := reader.read(1 << 20):
                received += file.write(chunk)
    if received < missing:
        raise OSError(f"connection lost after {received:,} of {missing:,} bytes; the next attempt resumes there")
