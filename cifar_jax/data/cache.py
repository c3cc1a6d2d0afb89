"""Decoded data sets kept on disk, so that the second run starts in a second.

One uncompressed `.npz` for each source and image size, in the folder `data` of the cache. Its name has one hash of the
source's path and one of its state (sizes and modification times), so a changed source is read again. The checksums of
the zip format detect damage.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import cache_root

FORMAT = 1  # raise it when decoding or the layout of an entry changes: old entries are then ignored
SPLITS = ("train", "test", "validation")

log = logging.getLogger(__name__)


def cached(path: Path, *, image_size: int, read: Callable[[], Dataset]) -> Dataset:
    """What `read` returns for the file or directory `path`, from the cache if it has that.

    A damaged entry is rebuilt; a cache that cannot be written causes a warning.
    """
    entry = _entry(path, image_size=image_size)
    dataset = _load(entry)
    if dataset is None:
        log.info("reading %s; later runs take the decoded images from %s", path, entry.parent)
        dataset = read()
        _store(entry, dataset)
    return dataset


def cache_dir() -> Path:
    return cache_root() / "data"


def _entry(path: Path, *, image_size: int) -> Path:
    place = hashlib.sha256(f"{path.resolve()}\0{image_size}".encode()).hexdigest()
    state = hashlib.sha256(f"{FORMAT}".encode())
    for line in _state(path):
        state.update(line.encode("utf-8", "surrogateescape"))
    return cache_dir() / f"{place[:20]}-{state.hexdigest()}.npz"


def _state(path: Path) -> Iterator[str]:
    """A line for each file: name within the source, size in bytes, modification time in ns."""
    files = [path]
    if path.is_dir():
        files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        # a folder may be empty and still be a class
        yield from sorted(os.path.relpath(folder, path) + "/\n" for folder, _, _ in os.walk(path))
    for file in files:
        stat = file.lstat()
        yield f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


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
    try:
        with atomic_path(entry) as temporary:
            np.savez(temporary, **arrays)
        place = entry.name.split("-")[0]
        for old in entry.parent.glob(f"{place}-*.npz"):
            if old != entry:
                old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("decoded images could not be cached, the next run decodes again: %s", error)
