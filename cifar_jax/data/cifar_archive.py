"""CIFAR-10 and CIFAR-100 as published by the University of Toronto (Krizhevsky, 2009), python and binary."""

import contextlib
import dataclasses
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cifar_jax.data import archives
from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size
from cifar_jax.errors import DataError
from cifar_jax.files.checksums import require_published
from cifar_jax.files.unpickle import unpickle

PIXELS = 32 * 32 * 3


@dataclasses.dataclass(frozen=True)
class Version:
    """One of the four published archives.

    Attributes:
        archive, md5: file name and checksum of the packed form.
        folder: the folder in it, which is also the unpacked form.
        labels: the keys of an image's labels; the last label is its class.
        names: for each label the file (binary) or the key in `meta` (python) with the class names.
        meta: the pickle with the class names; '' if the archive is binary.
    """

    title: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    meta: str = ""


_COARSE_AND_FINE = ("coarse_labels", "fine_labels")
# fmt: off
CIFAR10_PYTHON = Version(
    "CIFAR-10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)), test="test_batch",
    labels=("labels",), names=("label_names",), meta="batches.meta",
)
CIFAR10_BINARY = Version(
    "CIFAR-10", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)), test="test_batch.bin",
    labels=("labels",), names=("batches.meta.txt",),
)
CIFAR100_PYTHON = Version(
    "CIFAR-100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python",
    train=("train",), test="test",
    labels=_COARSE_AND_FINE, names=("coarse_label_names", "fine_label_names"), meta="meta",
)
CIFAR100_BINARY = Version(
    "CIFAR-100", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary",
    train=("train.bin",), test="test.bin",
    labels=_COARSE_AND_FINE, names=("coarse_label_names.txt", "fine_label_names.txt"),
)
# fmt: on
VERSIONS = (CIFAR10_PYTHON, CIFAR10_BINARY, CIFAR100_PYTHON, CIFAR100_BINARY)


class Contents(NamedTuple):
    """Images uint8 (N, 32, 32, 3) and labels int32 (L, N) of each split, and the class names of each label.

    L is 1 for CIFAR-10 and 2 for CIFAR-100, whose last label is the class.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: tuple[tuple[str, ...], ...]


def find(path: Path, *, name: str) -> Path | None:
    """The archive or unpacked folder that `path` is or contains; that of data.name `name` is preferred."""
    versions = sorted(VERSIONS, key=lambda version: version.title.replace("-", "").lower() != name)
    inside = [path / part for version in versions for part in (version.folder, version.archive)]
    return next((place for place in (path, *inside) if version_of(place)), None)


def version_of(path: Path) -> Version | None:
    """Which published archive or unpacked folder `path` is."""
    if path.is_dir():
        return next((version for version in VERSIONS if (path / version.train[0]).is_file()), None)
    if not path.is_file():
        return None
    published = next((version for version in VERSIONS if version.archive == path.name), None)
    if published or not archives.is_archive(path):
        return published
    with contextlib.closing(archives.members(path, endings=())) as members:  # renamed or packed by the user
        folder = next((member.split("/")[0] for member, _ in members), "")
    return next((version for version in VERSIONS if version.folder == folder), None)


def read(path: Path, *, image_size: int) -> Dataset:
    """Reads an archive or its unpacked folder; CIFAR-100 with its 100 fine labels.

    An archive under its published name must have the published md5; under another name only its contents are checked.

    Raises:
        DataError: a wrong md5, a truncated archive, a missing, short or damaged file, a forbidden pickle.
        UsageError: `image_size` is not that of the images.
    """
    version = version_of(path)
    if path.name == version.archive:
        require_published(path, f"md5:{version.md5}", source=str(path))
    contents = read_contents(path)
    train, test = (
        ImageSet(images_NHWC, labels_LN[-1], contents.names[-1])
        for images_NHWC, labels_LN in (contents.train, contents.test)
    )
    return require_stored_size(Dataset(version.title, str(path), train, test), image_size)


def read_contents(path: Path) -> Contents:
    """All labels of an archive or its unpacked folder, whose md5 is not checked; raises as `read`."""
    version = version_of(path)
    needed = {*version.train, version.test, *([version.meta] if version.meta else version.names)}
    members = ((PurePosixPath(name).name, data) for name, data in archives.members(path) if data is not None)
    files = {name: data for name, data in members if name in needed}
    if missing := sorted(needed - set(files)):
        raise DataError(f"{path}: lacks {', '.join(missing)} of {version.title}; fetch it again")

    if version.meta:
        meta = unpickle(files[version.meta], where=f"{path}/{version.meta}")
        names = tuple(tuple(meta.get(key, ())) for key in version.names)
    else:
        names = tuple(tuple(files[name].decode("utf-8", "replace").split()) for name in version.names)
    parse = _pickled_batch if version.meta else _binary_batch
    *batches, test = [
        parse(files.pop(name), version, names, f"{path}/{name}") for name in (*version.train, version.test)
    ]
    images, labels = zip(*batches, strict=True)
    train = np.concatenate(images), np.concatenate(labels, axis=1)
    if len(train[0]) != 5 * len(test[0]):
        raise DataError(
            f"{path}: {len(train[0])} training and {len(test[0])} test images, expected five to one; "
            "a file is truncated, fetch it again"
        )
    return Contents(train, test, names)


def _binary_batch(data: bytes, version: Version, names: tuple, where: str) -> tuple[np.ndarray, np.ndarray]:
    record_bytes = len(version.labels) + PIXELS
    if len(data) % record_bytes:
        raise DataError(f"{where}: {len(data)} bytes, not a multiple of {record_bytes}: truncated, fetch it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
    pixels, labels_LN = records[:, len(version.labels) :], records[:, : len(version.labels)].T
    return _checked(pixels, labels_LN, names, where)


def _pickled_batch(data: bytes, version: Version, names: tuple, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = unpickle(data, where=where)
    try:
        labels_LN = np.array([batch[key] for key in version.labels], ndmin=2)
        return _checked(np.asarray(batch["data"]), labels_LN, names, where)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{where}: not a batch of {version.title} ({error!r}); fetch it again") from error


def _checked(pixels: np.ndarray, labels_LN: np.ndarray, names: tuple, where: str) -> tuple[np.ndarray, np.ndarray]:
    count = len(pixels)
    if pixels.dtype != np.uint8 or pixels.shape != (count, PIXELS):
        raise DataError(f"{where}: pixels are {pixels.dtype} {pixels.shape}; expected uint8 (N, {PIXELS})")
    if labels_LN.dtype.kind not in "iu" or labels_LN.shape != (len(names), count):
        raise DataError(f"{where}: labels are {labels_LN.dtype} {labels_LN.shape}; expected {count} integers")
    for labels_N, class_names in zip(labels_LN, names, strict=True):
        if count and (labels_N.min() < 0 or labels_N.max() >= len(class_names)):
            raise DataError(f"{where}: a label outside 0 to {len(class_names) - 1}; fetch it again")
    images_NHWC = np.ascontiguousarray(pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1))
    return images_NHWC, labels_LN.astype(np.int32)
