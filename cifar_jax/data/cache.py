"""Decoded data sets kept on disk, so that the second run starts in a second.

One uncompressed `.npz` for each source and image size. Its name has a hash of the source's path and one of its state
(sizes and modification times), so a changed source is read again. The checksums of the zip format detect damage.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import cache_root

FORMAT = 2  # raise it when decoding or the layout of an entry changes: old entries are then ignored

log = logging.getLogger(__name__)


def cached(path: Path, *, read: Callable[..., Dataset], image_size: int) -> Dataset:
    """`read(path, image_size=image_size)` of a file or directory, from the cache if it is there.

    A damaged entry is rebuilt; a cache that cannot be written causes a warning.
    """
    source_hash = hashlib.sha256(repr((path.resolve(), image_size, read.__module__)).encode()).hexdigest()[:20]
    entry = cache_root() / "data" / f"{source_hash}-{_state_hash(path)}.npz"
    dataset = _load(entry)
    if dataset is None:
        log.info("reading %s; later runs take the decoded images from %s", path, entry.parent)
        dataset = read(path, image_size=image_size)
        try:
            _store(entry, dataset)
            for old in set(entry.parent.glob(f"{source_hash}-*.npz")) - {entry}:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("decoded images could not be cached, the next run decodes again: %s", error)
    return dataset


def _state_hash(path: Path) -> str:
    """Of the relative path, size and modification time of each file and folder; an empty folder may be a class."""
    tree = os.walk(path, followlinks=True)
    below = sorted(Path(folder, name) for folder, folders, files in tree for name in (*folders, *files))
    stats = [(os.path.relpath(part, path), part.lstat()) for part in (path, *below)]
    state = [FORMAT, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _load(entry: Path) -> Dataset | None:
    try:
        with open(entry, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            class_names = tuple(about.pop("class_names"))
            splits = {
                split: ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"], class_names)
                for split in about.pop("splits")
            }
            return Dataset(**about, **splits)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, numpy and json raise anything on damaged files
        log.warning("cache entry %s is damaged (%s): reading the source again", entry, error)
        return None


def _store(entry: Path, dataset: Dataset) -> None:
    about = {"name": dataset.name, "source": dataset.source, "class_names": dataset.class_names}
    arrays = {"about": np.array(json.dumps(about | {"splits": list(dataset.splits)}))}
    for split, images in dataset.splits.items():
        arrays |= {f"{split}_images": images.images_NHWC, f"{split}_labels": images.labels_N}
    with atomic_path(entry) as temporary:
        np.savez(temporary, **arrays)
