"""What a source holds: one walk over a folder or an archive, links followed, each file under each of its names.

Reading, the key of the cache and the summary of a data set all come from this listing.
"""

import collections
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import open_regular

MAX_DEPTH = 64  # folders within folders
MAX_NAMES = 16  # of one folder that links lead to; folders of links to folders of links would double at each level
MAX_FILE_BYTES = 256 << 20  # of one image or text


class Node(NamedTuple):
    """A file or folder as found, after following links."""

    real: str  # equal for a file and the links to it
    is_folder: bool = False
    size: int = 0  # bytes
    version: tuple = ()  # another one after any change of the content
    problem: str = ""  # why it cannot be read: a link to nothing, a device


class Listing:
    """The visible files and folders of a source, by their names: relative, with forward slashes.

    Attributes:
        files: also those that cannot be read; reading them is an error.
        folders: without the source itself.
        loops: links to a folder that contains them; they are not followed.
        hidden: files and folders whose names begin with a dot, and __MACOSX; nothing below them is listed.
        notes: what else was noticed, in words.
    """

    def __init__(self, read: Callable[[Node], bytes], where: Path):
        self.files: dict[str, Node] = {}
        self.folders: set[str] = set()
        self.loops: list[str] = []
        self.hidden: list[str] = []
        self.notes: list[str] = []
        self._read, self._where = read, where

    def read(self, name: str) -> bytes:
        """The content of a file; DataError if it cannot be read."""
        node, where = self.readable(name), f"{self._where}/{name}"
        try:
            return self._read(node)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except OSError as error:
            raise DataError(
                f"{where}: cannot be read ({error.strerror}); check that it is there and readable"
            ) from error

    def readable(self, name: str) -> Node:
        """The node of a file; DataError if it is none that can be read, or is too large."""
        node, where = self.files[name], f"{self._where}/{name}"
        if node.problem:
            raise DataError(f"{where}: {node.problem}; replace or remove it")
        if node.size > MAX_FILE_BYTES:
            raise DataError(f"{where}: {node.size:,} bytes; images and texts of up to {MAX_FILE_BYTES:,} are read")
        return node


def walk(listing: Listing, top: str, children: Callable[[str], Iterable[tuple[str, Node]]]) -> Listing:
    """Fills the listing with everything below the real folder `top`.

    A folder that is reached through links is listed under each name; a link to a folder around it is not followed, so
    the walk ends.

    Args:
        children: the names and nodes directly in a real folder.
    """
    names = collections.Counter()
    pending = [("", top, (top,))]
    while pending:
        prefix, folder, chain = pending.pop()
        for child, node in children(folder):
            name = prefix + child
            if child.startswith(".") or child == "__MACOSX":
                listing.hidden.append(name)
            elif not node.is_folder:
                listing.files[name] = node
            elif any(_contains(node.real, ancestor) for ancestor in chain):
                listing.loops.append(name)
            else:
                names[node.real] += 1
                if len(chain) > MAX_DEPTH:
                    raise DataError(f"{_join(top, name)}: more than {MAX_DEPTH} folders deep; move the images up")
                if names[node.real] > MAX_NAMES:
                    raise DataError(f"{_join(top, name)}: one of over {MAX_NAMES} names of {node.real}; remove links")
                listing.folders.add(name)
                pending.append((f"{name}/", node.real, (*chain, node.real)))
    return listing


def _join(top: str, name: str) -> str:
    return os.path.join(top, name) if top else name


def _contains(folder: str, other: str) -> bool:
    return other == folder or other.startswith(folder.rstrip("/") + "/")


def list_folder(path: Path) -> Listing:
    """The listing of a directory; DataError if one of its folders cannot be read."""
    return walk(Listing(_read, path), os.path.realpath(path), _children)


def _read(node: Node) -> bytes:
    with open_regular(Path(node.real)) as file:
        return file.read(node.size)


def _children(folder: str) -> Iterable[tuple[str, Node]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, _node(entry)) for entry in entries]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _node(entry: os.DirEntry) -> Node:
    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
    try:
        status = entry.stat()
    except OSError as error:
        return Node(real, problem=f"a link that leads to no file ({error.strerror})")
    if stat.S_ISDIR(status.st_mode):
        return Node(real, is_folder=True)
    if not stat.S_ISREG(status.st_mode):
        return Node(real, problem="a device, socket or FIFO, not a file")
    return Node(real, size=status.st_size, version=version(status))


def version(status: os.stat_result) -> tuple[int, ...]:
    """Another value after each change of a file, even one that keeps its size and modification time."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
