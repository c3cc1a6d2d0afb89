"""The folder in which everything that can be downloaded or computed again is kept."""

import os
from pathlib import Path

from cifar_jax.errors import UsageError


def cache_root() -> Path:
    """$CIFAR_JAX_CACHE, else ~/.cache/cifar_jax; UsageError if there is no home directory.

    Below it: `data/` (decoded data sets), `pretrained/` (downloaded and converted weights) and `compiled/` (programs).
    """
    try:
        return Path(os.environ.get("CIFAR_JAX_CACHE") or "~/.cache/cifar_jax").expanduser()
    except RuntimeError as error:
        raise UsageError("there is no home directory: set CIFAR_JAX_CACHE to a folder for the cache") from error
