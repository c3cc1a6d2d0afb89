"""The folder in which everything that can be downloaded or computed again is kept."""

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

from cifar_jax.errors import UsageError

DEFAULT = "~/.cache/cifar_jax"

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """$CIFAR_JAX_CACHE, else ~/.cache/cifar_jax, else, with a warning, a folder for temporary files.

    Below it: `data/` (decoded data sets), `pretrained/` (downloaded and converted weights) and `compiled/` (programs).

    Raises:
        UsageError: none of them can be written.
    """
    chosen = os.environ.get("CIFAR_JAX_CACHE") or DEFAULT
    try:
        root = expanded(chosen)
        root.mkdir(parents=True, exist_ok=True)
    except UsageError:
        return _temporary_root(f"{chosen} has no home directory")
    except OSError as error:
        return _temporary_root(f"{chosen} cannot be created ({error.strerror})")
    return root if os.access(root, os.W_OK | os.X_OK) else _temporary_root(f"{chosen} cannot be written")


@functools.cache  # one warning
def _temporary_root(problem: str) -> Path:
    """A folder for temporary files that belongs to this user alone: its compiled programs are executed."""
    advice = "set CIFAR_JAX_CACHE to a folder that can be written"
    try:
        root = Path(tempfile.gettempdir(), f"cifar_jax-{os.getuid()}")
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
    except OSError as error:
        raise UsageError(f"{problem}, and there is no folder for temporary files ({error}): {advice}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UsageError(f"{problem}, and {root} is not a folder of this user alone: {advice}")
    log.warning("%s: the cache is %s; to keep it, %s", problem, root, advice)
    return root


def expanded(path: str | Path) -> Path:
    """With `~` replaced by the home directory; UsageError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no home directory; write the path without ~") from error
