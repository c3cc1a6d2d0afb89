"""CIFAR-10 and CIFAR-100 as published by the University of Toronto (Krizhevsky, 2009), python and binary."""

import contextlib
import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np

from cifar_jax.data import archives
from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.errors import DataError
from cifar_jax.files.checksums import checksum
from cifar_jax.files.unpickle import unpickle

PIXELS = 32 * 32 * 3


@dataclasses.dataclass(frozen=True)
class Version:
    """One of the four published archives: what it is called, what it holds.

    Attributes:
        archive, md5: file name and hash of the packed form.
        folder: the folder in it, which is also the unpacked form.
        labels: the label of each record, in the order of the binary form; the last one is used.
        names: for each label the file (binary) or the key in `meta` (python) with the class names.
    """

    title: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def is_pickled(self) -> bool:
        return bool(self.meta)


CIFAR10_PYTHON = Version(
    title="CIFAR-10",
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels=("labels",),
    names=("label_names",),
)
CIFAR10_BINARY = Version(
    title="CIFAR-10",
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    meta="",
    labels=("labels",),
    names=("batches.meta.txt",),
)
CIFAR100_PYTHON = Version(
    title="CIFAR-100",
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels=("coarse_labels", "fine_labels"),
    names=("coarse_label_names", "fine_label_names"),
)
CIFAR100_BINARY = Version(
    title="CIFAR-100",
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    meta="",
    labels=("coarse_labels", "fine_labels"),
    names=("coarse_label_names.txt", "fine_label_names.txt"),
)
VERSIONS = (CIFAR10_PYTHON, CIFAR10_BINARY, CIFAR100_PYTHON, CIFAR100_BINARY)


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that is in an archive: images uint8 (N, 32, 32, 3) and labels int32 (L, N) of each split, names.

    L is 1 for CIFAR-10 and 2 for CIFAR-100, whose last label is the class; names[l] belong to label l.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: tuple[tuple[str, ...], ...]


def find(path: Path, *, name: str) -> tuple[Path, Version] | None:
    """The archive or unpacked folder that `path` is or contains; the one of data.name `name` first."""
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(name)
    versions = sorted(VERSIONS, key=lambda version: version.title != title)
    if path.is_file():
        folder = None if path.name in [version.archive for version in versions] else _top_folder(path)
        return next(((path, v) for v in versions if path.name == v.archive or folder == v.folder), None)
    for version in versions:
        for place in (path, path / version.folder):
            if (place / version.train[0]).is_file():
                return place, version
        if (path / version.archive).is_file():
            return path / version.archive, version
    return None


def _top_folder(path: Path) -> str:
    with contextlib.closing(archives.members(path, wanted=())) as members:
        return next((name.split("/")[0] for name, _ in members), "")


def read(path: Path, version: Version) -> Dataset:
    """The data set in an archive or its unpacked folder; CIFAR-100 with its 100 fine labels.

    An archive under its published name must have the published md5; one packed anew by the user has another
    name, and only its contents are checked.

    Raises:
        DataError: a wrong md5, a truncated archive, a missing, short or damaged file, a forbidden pickle.
    """
    if path.name == version.archive:
        verify_md5(path, version.md5)
    contents = read_contents(path, version)
    train, test = (
        ImageSet(images_NHWC, labels_LN[-1], contents.names[-1])
        for images_NHWC, labels_LN in (contents.train, contents.test)
    )
    return Dataset(version.title, str(path), train, test)


def verify_md5(path: Path, expected: str) -> None:
    md5 = checksum(path, "md5")
    if md5 != expected:
        raise DataError(f"{path}: md5 is {md5}, expected {expected}; truncated or changed, fetch it again")


def read_contents(path: Path, version: Version) -> Contents:
    needed = {*version.train, version.test, *([version.meta] if version.is_pickled else version.names)}
    found = ((PurePosixPath(name).name, data) for name, data in archives.members(path) if data is not None)
    files = {name: data for name, data in found if name in needed}
    if missing := sorted(needed - set(files)):
        raise DataError(f"{path}: lacks {', '.join(missing)} of {version.title}; fetch it again")

    if version.is_pickled:
        meta = unpickle(files[version.meta], where=f"{path}/{version.meta}")
        names = tuple(tuple(meta.get(key, ())) for key in version.names)
    else:
        names = tuple(tuple(files[name].decode("utf-8", "replace").split()) for name in version.names)
    parse = _pickled_batch if version.is_pickled else _binary_batch
    batches = [parse(files.pop(name), version, names, f"{path}/{name}") for name in (*version.train, version.test)]
    train, test = _joined(batches[:-1]), batches[-1]
    if len(train[0]) != 5 * len(test[0]):
        raise DataError(
            f"{path}: {len(train[0])} training and {len(test[0])} test images, expected five to one; "
            "a file is cut short, fetch it again"
        )
    return Contents(train, test, names)


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels, axis=1)


def _binary_batch(data: bytes, version: Version, names: tuple, where: str) -> tuple[np.ndarray, np.ndarray]:
    record_bytes = len(version.labels) + PIXELS
    if len(data) % record_bytes:
        raise DataError(f"{where}: {len(data)} bytes, no multiple of {record_bytes}: cut short, fetch it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
    pixels, labels_LN = records[:, len(version.labels) :], records[:, : len(version.labels)].T
    return _checked(pixels, labels_LN, names, where)


def _pickled_batch(data: bytes, version: Version, names: tuple, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = unpickle(data, where=where)
    try:
        labels_LN = np.array([batch[key] for key in version.labels], ndmin=2)
        return _checked(np.asarray(batch["data"]), labels_LN, names, where)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{where}: no batch of {version.title} ({error!r}); fetch it again") from error


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
