"""From `config.data` to a `Dataset`."""

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ml_collections import ConfigDict

from cifar_jax.data import cifar_archive, drawn_shapes, image_folder, npz, tfds
from cifar_jax.data.cache import cached
from cifar_jax.data.dataset import Dataset, require_two_classes
from cifar_jax.data.listing import Listing, list_folder
from cifar_jax.data.splits import stratified_subset
from cifar_jax.errors import DataError, UsageError
from cifar_jax.files.cache import expanded

VARIABLE = "CIFAR_JAX_DATA"
PUBLISHED = {"cifar10": ("CIFAR-10", 10), "cifar100": ("CIFAR-100", 100)}  # title and number of classes

log = logging.getLogger(__name__)


class Reader(Protocol):
    """A module that reads one kind of data set."""

    def find(self, path: Path, *, name: str) -> Path | None:
        """The file or folder to read in or at `path`, or None if it is of another kind; `name` is data.name."""

    def read(self, path: Path, *, image_size: int) -> Dataset:
        """Reads what `find` returned; `image_size` is data.image_size, 0 = as stored."""


READERS: tuple[Reader, ...] = (tfds, npz, cifar_archive, image_folder)  # the first that finds its kind reads it


def load(data_config: ConfigDict, *, allow_fallback: bool, room: Callable[[], int] | None = None) -> Dataset:
    """Finds and reads the data set that `config.data` names.

    In this order: data.dir; $CIFAR_JAX_DATA; TFDS's own directory; a download; and, with `allow_fallback` and
    data.fallback='shapes', the drawn shapes, with a warning. A path that is set is used or is an error.

    Args:
        allow_fallback: False with several processes, and wherever another data set would be wrong.
        room: the bytes of decoded images above which data.pipeline=auto streams; None = it never does.

    Returns:
        Images uint8 (N, H, W, 3) RGB, labels int32 (N,); at most data.limit of each split, stratified. They are decoded
        when they are read if data.pipeline is 'stream', or 'auto' and they are too large.

    Raises:
        UsageError: a path that does not exist, or a key that does not fit the data.
        DataError: data that is missing, damaged or of another kind; the message names the file.
    """
    name, limit = data_config.name, data_config.limit
    streams = data_config.pipeline == "stream"
    if name == "shapes":
        if streams:
            raise _not_streamed("the drawn shapes")
        if data_config.dir or data_config.image_size:
            raise UsageError("--config.data.name=shapes is drawn at 32x32; leave out data.dir and data.image_size")
        return require_two_classes(_draw(limit))
    path = _configured_path(data_config)
    if path is None:
        if streams:
            raise _not_streamed(f"{name} of TensorFlow Datasets")
        try:
            path = tfds.find(tfds.default_data_dir(), name=name) or tfds.download_and_prepare(name)
        except tfds.Unavailable as error:
            if allow_fallback and data_config.fallback == "shapes":
                _warn_of_fallback(name, cause=str(error))
                drawn = require_two_classes(_draw(limit))
                return dataclasses.replace(drawn, name=f"shapes (stand-in for {name})", is_fallback=True)
            options = "; ".join(_ways_to_get(name))
            raise DataError(f"{name} was not found and cannot be downloaded ({error}): {options}") from error
    dataset = _named(_read(path, data_config, room), name, path)
    require_two_classes(dataset)
    if not limit:
        return dataset
    subsets = {
        split: images.take(stratified_subset(images.labels_N, count=limit, seed=0))
        for split, images in dataset.splits.items()
    }
    return require_two_classes(dataclasses.replace(dataset, **subsets))


def _configured_path(data_config: ConfigDict) -> Path | None:
    """The path that the user has set, if any."""
    key, text = "--config.data.dir", data_config.dir
    if not text:
        key, text = VARIABLE, os.environ.get(VARIABLE)
    if not text:
        if data_config.name == "folder":
            raise UsageError(f"--config.data.name=folder needs --config.data.dir or {VARIABLE}: which image folder?")
        return None
    path = expanded(text)
    if not os.path.exists(path):
        raise UsageError(f"{key}={text}: no such file or directory; correct the path or leave it out")
    if not (path.is_dir() or path.is_file()):
        raise UsageError(f"{key}={text}: a device, socket or FIFO; expected a folder or a file")
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        raise UsageError(f"{key}={text}: cannot be read; change its permissions or choose another path")
    return path.resolve()


def _read(path: Path, data_config: ConfigDict, room: Callable[[], int] | None) -> Dataset:
    """Reads a data set of any kind, from the cache if it has been read before; or indexes a folder to stream it."""
    image_size = data_config.image_size
    for reader in READERS:
        if location := reader.find(path, name=data_config.name):
            listing = list_folder(location) if reader is image_folder and location.is_dir() else None
            if dataset := _streamed(listing, location, data_config, room):
                return dataset
            return cached(location, read=reader.read, image_size=image_size, listing=listing)
    raise DataError(
        f"{path}: no reader recognizes it; expected .npz, .tar, .tar.gz, .tar.xz or .zip: wrong path, or damaged"
    )


def _streamed(
    listing: Listing | None, path: Path, data_config: ConfigDict, room: Callable[[], int] | None
) -> Dataset | None:
    """The folder with this listing, indexed, if it is to be streamed, else None."""
    pipeline, image_size = data_config.pipeline, data_config.image_size
    if pipeline == "stream" and not listing:
        raise _not_streamed(str(path))
    if pipeline == "stream":
        return image_folder.index(path, image_size=image_size, listing=listing)
    if pipeline == "device" or not (listing and room):
        return None
    limit = room()
    if image_size and image_folder.most_bytes(listing, image_size=image_size) <= limit:
        return None  # an index takes a second for 60,000 files
    dataset = image_folder.index(path, image_size=image_size, listing=listing)
    if dataset.nbytes <= limit:
        return None
    sizes = f"{dataset.nbytes / 1e9:,.1f} GB decoded, at most {limit / 1e9:,.1f} GB are kept in memory"
    log.info("data.pipeline=stream, chosen for %s: %s", path, sizes)
    return dataset


def _not_streamed(source: str) -> UsageError:
    fix = "unpack an archive, or use --config.data.pipeline=device"
    return UsageError(f"--config.data.pipeline=stream: {source}: only a folder of image files can be streamed; {fix}")


def _named(dataset: Dataset, name: str, path: Path) -> Dataset:
    """With the name to print: 'CIFAR-10', and the file's name beside it unless it is known to be the published data."""
    dataset = dataclasses.replace(dataset, source=str(path))
    if name not in PUBLISHED:
        return dataset
    title, classes = PUBLISHED[name]
    if len(dataset.class_names) != classes:
        raise DataError(
            f"{path}: {len(dataset.class_names)} classes, {name} has {classes}; "
            "use --config.data.name=folder to train on it, or another path"
        )
    is_published = dataset.name in (name, title)
    return dataclasses.replace(dataset, name=title if is_published else f"{title} ({path.name})")


def _draw(limit: int) -> Dataset:
    """The drawn shapes; with a limit only the first ones are drawn, which are stratified too."""
    train_size, test_size = (min(limit or size, size) for size in (drawn_shapes.TRAIN_SIZE, drawn_shapes.TEST_SIZE))
    return drawn_shapes.draw_shapes(train_size=train_size, test_size=test_size)


def _ways_to_get(name: str) -> tuple[str, ...]:
    return (
        f"download {tfds.VERSIONS[name].archive} (University of Toronto) and set --config.data.dir or {VARIABLE} to it",
        f"or to a TFDS directory with {name}",
        "or to an image folder (split/class/file), a .tar, .tar.gz, .tar.xz or .zip of one, or an .npz",
    )


def _warn_of_fallback(name: str, *, cause: str) -> None:
    rule = "!" * 100
    lines = (
        rule,
        f"WARNING: {name} WAS NOT FOUND. THIS RUN TRAINS ON THE FALLBACK DATA SET, DRAWN SHAPES.",
        "",
        f"What happened:  neither --config.data.dir nor {VARIABLE} is set, {tfds.default_data_dir()}",
        f"                has no {name}, and it cannot be downloaded: {cause}",
        f"What it means:  every figure, table and file of this run is about 'shapes (stand-in for {name})',",
        f"                10 classes of images that the program draws. None of them is about {name}.",
        "Real data:      " + "\n                ".join(_ways_to_get(name)),
        "To get an error instead of this warning: --config.data.fallback=",
        rule,
    )
    print("", *lines, "", sep="\n", file=sys.stderr, flush=True)
