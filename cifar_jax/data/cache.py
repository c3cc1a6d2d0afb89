"""Decoded data sets kept on disk, so that the second run starts in a second.

One uncompressed `.npz` for each source and image size. Its name has a hash of the source's path and one of its state
(sizes, times and inodes of its files), so a changed source is read again. The checksums of the zip format detect
damage.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.listing import Listing, list_folder, version
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import cache_root

FORMAT = 3  # raise it when decoding or the layout of an entry changes: old entries are then ignored

_NOTES = ("origin", "passed_over", "warnings")  # of a data set; they are in the summary of later runs as well

log = logging.getLogger(__name__)


def cached(path: Path, *, read: Callable[..., Dataset], image_size: int, listing: Listing | None = None) -> Dataset:
    """`read(path, image_size=image_size)` of a file or directory, from the cache if it is there.

    A damaged entry is rebuilt; a cache that cannot be written causes a warning.

    Args:
        listing: of the directory, if it is known.
    """
    source_hash = hashlib.sha256(repr((path.resolve(), image_size, read.__module__)).encode()).hexdigest()[:20]
    entry = cache_root() / "data" / f"{source_hash}-{_state_hash(path, listing)}.npz"
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


def _state_hash(path: Path, listing: Listing | None) -> str:
    """Of what is read: each file with its version, links followed; each folder, for an empty one may be a class."""
    if path.is_dir():
        listing = listing or list_folder(path)
        names = (listing.folders, listing.loops, listing.hidden)
        state = [sorted((name, *node) for name, node in listing.files.items()), *map(sorted, names)]
    else:
        state = [version(path.stat())]
    return hashlib.sha256(repr((FORMAT, state)).encode()).hexdigest()


def _load(entry: Path) -> Dataset | None:
    try:
        with open(entry, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            about = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items()}
            class_names = about.pop("class_names")
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
    about = {key: getattr(dataset, key) for key in ("name", "source", "class_names", *_NOTES)}
    arrays = {"about": np.array(json.dumps(about | {"splits": list(dataset.splits)}))}
    for split, images in dataset.splits.items():
        arrays |= {f"{split}_images": images.images_NHWC, f"{split}_labels": images.labels_N}
    with atomic_path(entry) as temporary:
        np.savez(temporary, **arrays)
