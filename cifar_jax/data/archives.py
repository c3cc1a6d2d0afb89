"""The files of a directory, a tar or a zip, read in a single pass."""

import bz2
import functools
import gzip
import lzma
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import Progress

from cifar_jax.errors import DataError, one_line

# RuntimeError: an encrypted member of a zip, or an unknown compression
_DAMAGE = (EOFError, OSError, RuntimeError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
_ZIP = b"PK\x03\x04"
_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}
_BLOCK = 512  # bytes of a tar header

Member = tuple[str, Callable[[], bytes] | None]  # name, and how to read it unless it is a folder


def is_archive(path: Path) -> bool:
    """Whether the file is a tar (plain or compressed) or a zip, by its first bytes."""
    start = _start(path)
    return start[:2] in _DECOMPRESS or start.startswith(_ZIP) or start[257:262] == b"ustar"


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_BLOCK)


def members(path: Path, *, endings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, bytes | None]]:
    """Yields (name, bytes) of every file and (name, None) of every folder in `path`.

    Names are relative, with forward slashes, in no particular order; hidden ones and __MACOSX are left out.
    A progress bar is shown if stderr is a terminal.

    Args:
        path: a directory, a .tar (also .gz, .bz2, .xz) or a .zip.
        endings: lower-case; files whose name has none of them are not read, their bytes are b''.

    Raises:
        DataError: the archive is truncated, damaged or encrypted, or a file cannot be read.
    """
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        try:
            reader = _directory if path.is_dir() else _zip if _start(path).startswith(_ZIP) else _tar
            for name, read in reader(path, progress):
                parts = [part for part in name.split("/") if part not in ("", ".")]
                if parts and not any(part.startswith(".") or part == "__MACOSX" for part in parts):
                    is_needed = name.lower().endswith(endings)
                    yield "/".join(parts), read and (read() if is_needed else b"")
        except _DAMAGE as error:
            raise DataError(f"{path}: truncated, damaged or encrypted ({one_line(error)}); fetch it again") from error


def _directory(path: Path, progress: Progress) -> Iterator[Member]:
    folders = list(os.walk(path, followlinks=True))
    task = progress.add_task(path.name, total=sum(len(names) for _, _, names in folders))
    for folder, _, names in folders:
        below = Path(folder).relative_to(path)
        yield below.as_posix(), None
        for name in names:
            yield (below / name).as_posix(), Path(folder, name).read_bytes
            progress.advance(task)


def _zip(path: Path, progress: Progress) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in progress.track(archive.infolist(), description=path.name):
            yield info.filename, None if info.is_dir() else functools.partial(archive.read, info)


def _tar(path: Path, progress: Progress) -> Iterator[Member]:
    # Decompressed here: tarfile's own streams notice neither a truncated header nor a wrong checksum.
    with progress.open(path, "rb", description=path.name) as packed, _decompressed(packed) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                if info.isdir() or info.isreg():
                    yield info.name, archive.extractfile(info).read if info.isreg() else None
        while stream.read(1 << 20):  # to the end, where the checksum is
            pass


def _decompressed(packed: BinaryIO) -> BinaryIO:
    magic = packed.read(2)
    if magic not in _DECOMPRESS:
        # A complete tar ends in empty blocks; tarfile does not notice truncation between files or in a header.
        packed.seek(-min(_BLOCK, packed.seek(0, os.SEEK_END)), os.SEEK_END)
        if any(packed.read()):
            raise tarfile.ReadError("no end-of-archive mark")
    packed.seek(0)
    return _DECOMPRESS[magic](packed) if magic in _DECOMPRESS else packed
