"""The one way in: from `config.data` to a `Dataset`."""

import dataclasses
import os
import sys
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.data import archives, cifar_archive, drawn_shapes, image_folder, npz, tfds
from cifar_jax.data.cache import cached
from cifar_jax.data.dataset import Dataset
from cifar_jax.data.splits import stratified_subset
from cifar_jax.errors import DataError, UsageError

VARIABLE = "CIFAR_JAX_DATA"
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
CLASSES = {"cifar10": 10, "cifar100": 100}
NAMES = (*TITLES, "shapes", "folder")


def load(data_config: ConfigDict, *, allow_fallback: bool) -> Dataset:
    """Finds and reads the data set that `config.data` names.

    In this order: data.dir; $CIFAR_JAX_DATA; TFDS's own directory; a download from Toronto, prepared as TFDS
    does; and, where `allow_fallback` and data.fallback is 'shapes', the shapes that the program draws, with a
    warning. A data.name of 'shapes' is drawn without a search. A path that is set is used or is an error.

    Args:
        data_config: its name, dir, fallback, image_size and limit are read.
        allow_fallback: False with several processes, and wherever another data set would be wrong.

    Returns:
        Images uint8 (N, H, W, 3) RGB, labels int32 (N,); at most data.limit of each split, stratified.

    Raises:
        UsageError: a path that does not exist, or a key that does not fit the data.
        DataError: data that cannot be had or cannot be read; the message names the file.
    """
    name, limit = data_config.name, data_config.limit
    path = _given_path(data_config)
    if name == "shapes":
        return _drawn(limit)
    if path is None:
        try:
            installed = tfds.find(tfds.default_data_dir(), name=name)
            path = installed or tfds.download_and_prepare(name)
        except tfds.Unavailable as error:
            if allow_fallback and data_config.fallback == "shapes":
                warn_of_fallback(name, cause=str(error))
                return dataclasses.replace(_drawn(limit), name=f"shapes (stand-in for {name})", is_fallback=True)
            ways = "; ".join(_ways(name))
            raise DataError(f"{name} is not here and cannot be downloaded ({error}): {ways}") from error
    dataset = _named(read(path, name=name, image_size=data_config.image_size), name, path)
    return _limited(dataset, limit) if limit else dataset


def _given_path(data_config: ConfigDict) -> Path | None:
    """The path that the user set, if any, and checks that it fits the name."""
    name = data_config.name
    if name not in NAMES:
        raise UsageError(f"--config.data.name={name}: unknown; one of {', '.join(NAMES)}")
    if name == "shapes":
        if data_config.dir or data_config.image_size:
            raise UsageError("--config.data.name=shapes is drawn at 32x32; leave out data.dir and data.image_size")
        return None
    key, text = "--config.data.dir", data_config.dir
    if not text:
        key, text = VARIABLE, os.environ.get(VARIABLE, "")
    if not text:
        if name == "folder":
            raise UsageError(f"--config.data.name=folder needs --config.data.dir or {VARIABLE}: which image folder?")
        return None
    path = Path(text).expanduser()
    if not os.path.exists(path):
        raise UsageError(f"{key}={text}: no such file or directory; correct the path or leave it out")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{key}={text}: may not be read; change its permissions or choose another path")
    return path.resolve()


def read(path: Path, *, name: str, image_size: int) -> Dataset:
    """Reads whatever lies at `path`, told by looking at it; from the cache where reading takes its time."""
    if found := tfds.find(path, name=name):
        return cached(found, image_size=image_size, read=lambda: tfds.read(found, image_size=image_size))
    if path.suffix == ".npz":
        return _as_stored(npz.read(path), image_size)
    if not path.is_dir() and not archives.is_archive(path):
        raise DataError(f"{path}: neither .npz, .tar, .tar.gz, .tar.xz nor .zip; wrong path, or damaged")
    if found := cifar_archive.find(path, name=name):
        dataset = cached(found[0], image_size=0, read=lambda: cifar_archive.read(*found))
        return _as_stored(dataset, image_size)
    return cached(path, image_size=image_size, read=lambda: image_folder.read(path, image_size=image_size))


def _as_stored(dataset: Dataset, image_size: int) -> Dataset:
    height, width = dataset.train.images_NHWC.shape[1:3]
    if image_size and (height, width) != (image_size, image_size):
        raise UsageError(
            f"{dataset.source}: arrays of {width}x{height} pixels; --config.data.image_size is for image "
            f"files, use --config.model.image_size={image_size}"
        )
    return dataset


def _named(dataset: Dataset, name: str, path: Path) -> Dataset:
    """The name to print: the file stands beside 'CIFAR-10' where it is not known to be the published data."""
    dataset = dataclasses.replace(dataset, source=str(path))
    if name not in TITLES:
        return dataset
    if len(dataset.class_names) != CLASSES[name]:
        raise DataError(
            f"{path}: {len(dataset.class_names)} classes, {name} has {CLASSES[name]}; "
            "use --config.data.name=folder to train on it, or another path"
        )
    is_published = dataset.name in (name, TITLES[name])
    return dataclasses.replace(dataset, name=TITLES[name] if is_published else f"{TITLES[name]} ({path.name})")


def _limited(dataset: Dataset, limit: int) -> Dataset:
    def subset(images):
        return images and images.take(stratified_subset(images.labels_N, count=limit, seed=0))

    train, test, validation = map(subset, (dataset.train, dataset.test, dataset.validation))
    return dataclasses.replace(dataset, train=train, test=test, validation=validation)


def _drawn(limit: int) -> Dataset:
    """The shapes; any first part of them is stratified, so that a limit saves the drawing of the rest."""
    most = limit or drawn_shapes.TRAIN_SIZE
    return drawn_shapes.draw_shapes(
        train_size=min(most, drawn_shapes.TRAIN_SIZE), test_size=min(most, drawn_shapes.TEST_SIZE)
    )


def _ways(name: str) -> tuple[str, ...]:
    """How to get the real data."""
    return (
        f"put {tfds.VERSIONS[name].archive} (University of Toronto) anywhere and set "
        f"--config.data.dir or {VARIABLE} to it",
        f"or to a TFDS directory with {name}",
        "or to an image folder (split/class/file), a .tar, .tar.gz, .tar.xz or .zip of one, or an .npz",
    )


def warn_of_fallback(name: str, *, cause: str) -> None:
    """Prints to stderr that shapes stand in for `name`, and why, and how to get the real data."""
    rule = "!" * 100
    lines = (
        rule,
        f"WARNING: {name} IS NOT HERE. THIS RUN TRAINS ON DRAWN SHAPES INSTEAD.",
        "",
        f"What happened:  neither --config.data.dir nor {VARIABLE} is set, {tfds.default_data_dir()}",
        f"                has no {name}, and it cannot be downloaded: {cause}",
        f"What it means:  every figure, table and file of this run is about 'shapes (stand-in for {name})',",
        f"                10 classes of images that the program draws. None of them is about {name}.",
        "Real data:      " + "\n                ".join(_ways(name)),
        "To have an error instead of this warning: --config.data.fallback=",
        rule,
    )
    print("", *lines, "", sep="\n", file=sys.stderr, flush=True)
