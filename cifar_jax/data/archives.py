"""Folders, tars and zips, each as one listing of its files."""

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import os
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import Progress

from cifar_jax.data.listing import MAX_DEPTH, Listing, Node, list_folder, walk
from cifar_jax.errors import DataError, one_line
from cifar_jax.files.untrusted import open_regular, open_zip, require_plausible_size

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second: a zip without files
_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}
_BLOCK = 512  # bytes of a tar header
_UTF8_NAME = 0x800  # flag of a zip's member
_MAX_LINK_BYTES = 4096
_MAX_HOPS = 40  # links to links, as in Linux


def progress_bar() -> Progress:
    """A context that shows its tasks while it lasts, if stderr is a terminal."""
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@dataclasses.dataclass(frozen=True)
class _Member:
    """An entry of an archive."""

    size: int = 0  # bytes
    is_folder: bool = False
    link: str | None = None  # where a symbolic link leads to
    problem: str = ""
    read: Callable[[], bytes] | None = None


def is_archive(path: Path) -> bool:
    """Whether the file is a tar (plain or compressed) or a zip, by its first bytes."""
    start = _start(path)
    return start[:2] in _DECOMPRESS or start.startswith(_ZIP) or start[257:262] == b"ustar"


def _start(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(_BLOCK)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Listing]:
    """The listing of a directory, a .tar (also .gz, .bz2, .xz) or a .zip; its files can be read within the block.

    A compressed tar is unpacked to a temporary file, with a progress bar if stderr is a terminal.

    Raises:
        DataError: the archive is truncated, damaged or encrypted, or a folder cannot be read.
    """
    if path.is_dir():
        yield list_folder(path)
        return
    with contextlib.ExitStack() as stack:
        with _damage_reported(path):
            list_members = _zip_members if _start(path).startswith(_ZIP) else _tar_members
            members, notes = list_members(path, stack)
            total = sum(member.size for member in members.values())
            require_plausible_size(total, stored=path.stat().st_size, where=str(path))
        yield _listing(members, notes, path)


def first_folder(path: Path) -> str:
    """The top folder that comes first in an archive, or a file's name; '' if there is none. Reads no further."""
    with _damage_reported(path), contextlib.ExitStack() as stack:
        if _start(path).startswith(_ZIP):
            names = iter(stack.enter_context(zipfile.ZipFile(path)).namelist())
        else:
            names = (member.name for member in stack.enter_context(tarfile.open(path, "r|*")))
        return next((part for name in names for part in name.split("/") if part not in ("", ".")), "")


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile, tarfile and the decompressors raise anything on damaged files
        raise DataError(f"{path}: truncated, damaged or encrypted ({one_line(error)}); fetch it again") from error


def _listing(members: dict[str, _Member], notes: list[str], path: Path) -> Listing:
    """The files of an archive by their names, with its symbolic links followed within the archive."""
    tree: dict[str, dict[str, str]] = {"": {}}  # of each folder the names of its children, and their paths
    for name in members:
        child = name
        while child:
            folder, _, base = child.rpartition("/")
            is_known = folder in tree
            tree.setdefault(folder, {})[base] = child
            child = "" if is_known else folder
    for name, member in members.items():
        if not member.is_folder and name in tree:
            raise DataError(f"{path}/{name}: both a file and a folder; pack the folder again")
        if member.is_folder:
            tree.setdefault(name, {})
    links = {name: member.link for name, member in members.items() if member.link is not None}

    def node(name: str) -> Node:
        real = _resolve(name, links) if links else name
        if real is None:
            return Node(name, problem="a link that leads out of the archive; pack the files themselves")
        if real in tree:
            return Node(real, is_folder=True)
        if real not in members:
            return Node(name, problem="a link to nothing in the archive; pack the files themselves")
        return Node(real, size=members[real].size, problem=members[real].problem)

    def read(node: Node) -> bytes:
        try:
            return members[node.real].read()
        except Exception as error:  # see _damage_reported
            hint = "fetch it again, or unpack it and use the folder"
            raise DataError(f"damaged or encrypted ({one_line(error)}); {hint}") from error

    listing = walk(Listing(read, path), "", lambda folder: ((base, node(name)) for base, name in tree[folder].items()))
    listing.notes += notes
    return listing


def _resolve(name: str, links: dict[str, str]) -> str | None:
    """The path without links, '' for the top; None if it leads out of the archive or in a circle."""
    done: list[str] = []
    pending, hops = deque(name.split("/")), 0
    while pending:
        part = pending.popleft()
        if part == "..":
            if not done:
                return None
            done.pop()
        elif part not in ("", "."):
            done.append(part)
            target = links.get("/".join(done))
            if target is not None:
                hops += 1
                if hops > _MAX_HOPS or len(target) > _MAX_LINK_BYTES or target.startswith("/"):
                    return None
                done.pop()
                pending.extendleft(reversed(target.split("/")))
    return "/".join(done)


def _plain(name: str, path: Path) -> str:
    """The name without '.' and empty parts; '' is the top."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH or ".." in parts:
        problem = "leads out of the archive" if ".." in parts else f"is more than {MAX_DEPTH} folders deep"
        raise DataError(f"{path}: the name '{name[:80]}' {problem}; pack the images again")
    return "/".join(parts)


def _zip_members(path: Path, stack: contextlib.ExitStack) -> tuple[dict[str, _Member], list[str]]:
    try:
        archive = stack.enter_context(open_zip(stack.enter_context(open_regular(path))))
    except DataError as error:  # overlapping or encrypted members
        raise DataError(f"{path}: {error}, or unpack it and use the folder") from error
    # PowerShell 5 writes backslashes; elsewhere they may be part of a name
    only_backslashes = not any("/" in name for name in archive.namelist())
    members, unknown = {}, []
    for info in archive.infolist():
        name, is_guess = _zip_name(info)
        if only_backslashes or info.create_system == 0:  # written on Windows
            name = name.replace("\\", "/")
        if plain := _plain(name, path):
            members[plain] = _zip_member(archive, info, is_folder=name.endswith("/"))
            unknown += [plain] * is_guess
    notes = [f"{len(unknown)} names in an unknown encoding, read as cp437 ({unknown[0]})"] if unknown else []
    return members, notes


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The name, and whether its encoding had to be guessed. Names may be UTF-8 without the flag (as macOS writes)."""
    if info.flag_bits & _UTF8_NAME or info.filename.isascii():
        return info.filename, False
    try:
        return info.filename.encode("cp437").decode("utf-8"), False
    except UnicodeEncodeError:  # newer versions of Python have read the name from an extra field
        return info.filename, False
    except UnicodeDecodeError:
        return info.filename, True


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, is_folder: bool) -> _Member:
    if is_folder:
        return _Member(is_folder=True)
    if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _MAX_LINK_BYTES:
        return _Member(link=archive.read(info).decode("utf-8", "surrogateescape"))
    return _Member(info.file_size, read=lambda: archive.read(info))


def _tar_members(path: Path, stack: contextlib.ExitStack) -> tuple[dict[str, _Member], list[str]]:
    stream = _plain_tar(path, stack)
    archive = stack.enter_context(tarfile.TarFile(fileobj=stream))
    members: dict[str, _Member] = {}
    while info := archive.next():
        archive.members.clear()  # tarfile would keep every header
        if name := _plain(info.name, path):
            members[name] = _tar_member(archive, info, members, path)
    stream.seek(archive.offset)
    if any(stream.read(_BLOCK)):
        raise tarfile.ReadError(f"a damaged header at byte {archive.offset:,}")
    is_more = any(map(any, iter(lambda: stream.read(1 << 20), b"")))
    return members, ["what follows the end mark of the archive"] if is_more else []


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, members: dict[str, _Member], path: Path) -> _Member:
    if info.isdir():
        return _Member(is_folder=True)
    if info.issym():
        return _Member(link=info.linkname)
    if info.islnk():  # a hard link: another name of an earlier file
        missing = _Member(problem="a hard link to a file that is not in the archive")
        return members.get(_plain(info.linkname, path), missing)
    if info.isreg():
        return _Member(info.size, read=lambda: archive.extractfile(info).read())
    return _Member(problem="a device or FIFO, not a file")


def _plain_tar(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    """The tar, decompressed to a temporary file.

    Decompressed here: tarfile's own streams notice neither a truncated header nor a wrong checksum.
    """
    packed = stack.enter_context(open_regular(path))
    magic, size = packed.read(2), path.stat().st_size
    if magic not in _DECOMPRESS:
        # A complete tar ends in empty blocks; tarfile does not notice truncation between files or in a header.
        packed.seek(-min(_BLOCK, size), os.SEEK_END)
        if any(packed.read()):
            raise tarfile.ReadError("no end-of-archive mark")
        packed.seek(0)
        return packed
    packed.seek(0)
    plain = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with (
        progress_bar() as progress,
        progress.wrap_file(packed, size, description=path.name) as tracked,
        _DECOMPRESS[magic](tracked) as stream,
    ):
        while block := stream.read(1 << 20):
            _write(block, plain, path)
            require_plausible_size(plain.tell(), stored=size, where=str(path))
    plain.seek(0)
    return plain


def _write(block: bytes, plain: BinaryIO, path: Path) -> None:
    try:
        plain.write(block)
    except OSError as error:
        place = f"unpacking in {tempfile.gettempdir()} failed ({error.strerror})"
        raise DataError(f"{path}: {place}; set TMPDIR to a larger disk, or unpack it and use the folder") from error
