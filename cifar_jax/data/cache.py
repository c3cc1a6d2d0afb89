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

FORMAT = 1  # raise it when decoding or the layout of an entry changes: old entries are then ignored
SPLITS = ("train", "test", "validation")

log = logging.getLogger(__name__)


def cached(path: Path, *, image_size: int, read: Callable[[], Dataset]) -> Dataset:
    """What `read` returns for the file or directory `path`, from the cache if it is there.

    A damaged entry is rebuilt; a cache that cannot be written causes a warning.
    """
    source_hash = hashlib.sha256(repr((path.resolve(), image_size)).encode()).hexdigest()[:20]
    entry = cache_root() / "data" / f"{source_hash}-{_state_hash(path)}.npz"
    dataset = _load(entry)
    if dataset is None:
        log.info("reading %s; later runs take the decoded images from %s", path, entry.parent)
        dataset = read()
        try:
            _store(entry, dataset)
            for old in set(entry.parent.glob(f"{source_hash}-*.npz")) - {entry}:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("decoded images could not be cached, the next run decodes again: %s", error)
    return dataset


def _state_hash(path: Path) -> str:
    """Of the path within the source, size in bytes and modification time in ns of each file, and of the folders."""
    files, folders = [path], []  # a folder may be empty and still be a class
    if path.is_dir():
        tree = list(os.walk(path, followlinks=True))
        files = sorted(Path(folder, name) for folder, _, names in tree for name in names)
        folders = sorted(os.path.relpath(folder, path) for folder, _, _ in tree)
    state = [FORMAT, folders]
    for file in files:
        stat = file.lstat()
        state.append((os.path.relpath(file, path), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _load(entry: Path) -> Dataset | None:
    try:
        with open(entry, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            class_names = tuple(about.pop("class_names"))
            splits = {
                split: ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"], class_names)
                for split in SPLITS
                if f"{split}_images" in arrays
            }
            return Dataset(**about, **splits)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, numpy and json raise anything on damaged files
        log.warning("cache entry %s is damaged (%s): reading the source again", entry, error)
        return None


def _store(entry: Path, dataset: Dataset) -> None:
    about = {"name": dataset.name, "source": dataset.source, "class_names": dataset.class_names}
    arrays = {"about": np.array(json.dumps(about))}
    for split in SPLITS:
        images: ImageSet | None = getattr(dataset, split)
        if images is not None:
            arrays |= {f"{split}_images": images.images_NHWC, f"{split}_labels": images.labels_N}
    with atomic_path(entry) as temporary:
        np.savez(temporary, **arrays)
