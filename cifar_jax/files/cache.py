"""The folder in which everything that can be downloaded or computed again is kept."""

import os
from pathlib import Path

from cifar_jax.errors import UsageError

VARIABLE = "CIFAR_JAX_CACHE"


def cache_root() -> Path:
    """$CIFAR_JAX_CACHE, else ~/.cache/cifar_jax.

    Below it: `data/` (decoded data sets), `pretrained/` (downloaded and converted weights) and `compiled/` (programs).

    Raises:
        UsageError: the variable is not set and there is no home directory.
    """
    try:
        return Path(os.environ.get(VARIABLE) or "~/.cache/cifar_jax").expanduser()
    except RuntimeError as error:
        raise UsageError(f"there is no home directory: set {VARIABLE} to a folder for the cache") from error
