"""Files that are written completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: the temporary files of a killed process stay
    fcntl = None

_temporary: set[Path] = set()  # of this process


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it becomes `path` when the block ends, and is removed if the block fails.

    The temporary file is hidden, in the same folder, with the same suffix. It is locked, so that the next writer of
    `path` recognizes those that a killed process has left, and removes them. Missing folders are created.

    Raises:
        OSError: the file cannot be created, before the block runs, or cannot be written or renamed. It has a file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with open(temporary, "ab") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            _temporary.add(temporary)
            if fcntl is None:
                handle.close()  # Windows does not rename open files
            else:
                _lock(handle)
                _remove_abandoned(path)
            yield temporary
            temporary.chmod(mode)  # some writers create the file for its owner only (safetensors)
            os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # the user knows the file by its own name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        _temporary.discard(temporary)


def remove_temporary_files() -> None:
    """Removes the temporary files of this process, before it ends without leaving its `atomic_path` blocks."""
    for path in list(_temporary):
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_abandoned(path: Path) -> None:
    """Removes temporary files of `path` that no process has locked."""
    for other in path.parent.iterdir():
        if other.name.endswith(f".{path.name}") and other.name[1 : -len(path.name) - 1].isdecimal():
            with contextlib.suppress(OSError), open(other, "ab") as handle:
                if _lock(handle):
                    other.unlink()


def _lock(handle) -> bool:
    """Locks an open file until it is closed; False if another process or handle has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
