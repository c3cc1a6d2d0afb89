"""Files that are written completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it becomes `path` when the block ends, and is removed if the block fails.

    The temporary file is hidden, in the same folder, with the same suffix. Missing folders are created.

    Raises:
        OSError: the file cannot be created, before the block runs, or cannot be renamed, at its end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers create the file for its owner only (safetensors)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
