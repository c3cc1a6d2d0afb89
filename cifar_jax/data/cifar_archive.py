"""CIFAR-10 and CIFAR-100 as published by the University of Toronto (Krizhevsky, 2009), python and binary."""

import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np

from cifar_jax.data import archives
from cifar_jax.data.dataset import Dataset, ImageSet, require_stored_size
from cifar_jax.errors import DataError, one_line
from cifar_jax.files.checksums import require_published
from cifar_jax.files.unpickle import unpickle

PIXELS = 32 * 32 * 3


@dataclasses.dataclass(frozen=True)
class Version:
    """One of the four published archives."""

    title: str
    archive: str  # file name of the packed form
    md5: str
    folder: str  # in the archive, and the unpacked form
    train: tuple[str, ...]  # files
    test: str
    labels: tuple[str, ...]  # keys of an image's labels; the last label is its class
    names: tuple[str, ...]  # for each label the file (binary) or the key in `meta` (python) with the class names
    meta: str = ""  # the file with the class names (python)


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


Images = tuple[np.ndarray, np.ndarray]  # uint8 (N, 32, 32, 3) and labels int32 (L, N)


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
    folder = archives.first_folder(path)  # renamed or packed by the user
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
    train, test, names = read_contents(path)
    splits = (ImageSet(images_NHWC, labels_LN[-1], names[-1]) for images_NHWC, labels_LN in (train, test))
    return require_stored_size(Dataset(version.title, str(path), *splits), image_size)


def read_contents(path: Path) -> tuple[Images, Images, tuple[tuple[str, ...], ...]]:
    """Train, test and the class names of each label, without a check of the md5; raises as `read`."""
    version = version_of(path)
    needed = {*version.train, version.test, *([version.meta] if version.meta else version.names)}
    with archives.opened(path) as listing:
        names = {PurePosixPath(name).name: name for name in listing.files}
        files = {name: listing.read(names[name]) for name in needed & names.keys()}
    if missing := sorted(needed - set(files)):
        raise DataError(f"{path}: lacks {', '.join(missing)} of {version.title}; fetch it again")

    if version.meta:
        meta = _unpickled(files[version.meta], f"{path}/{version.meta}")
        names = tuple(_texts(meta.get(key), f"{path}/{version.meta}: {key}") for key in version.names)
    else:
        names = tuple(tuple(files[name].decode("utf-8", "replace").split()) for name in version.names)
    batches = [_batch(files.pop(name), version, names, f"{path}/{name}") for name in (*version.train, version.test)]
    images, labels = zip(*batches[:-1], strict=True)
    train, test = (np.concatenate(images), np.concatenate(labels, axis=1)), batches[-1]
    if len(train[0]) != 5 * len(test[0]):
        raise DataError(
            f"{path}: {len(train[0])} training and {len(test[0])} test images, expected five to one; "
            "a file is truncated, fetch it again"
        )
    return train, test, names


def _unpickled(data: bytes, where: str) -> dict:
    """With text as keys: Python 3 reads the published keys as bytes, and writes them so again."""
    read = unpickle(data, where=where)
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in read.items()}


def _texts(names: object, where: str) -> tuple[str, ...]:
    names = names.tolist() if isinstance(names, np.ndarray) and names.ndim == 1 else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{where}: not a list of class names; fetch it again")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def _batch(data: bytes, version: Version, names: tuple, where: str) -> Images:
    if version.meta:
        batch = _unpickled(data, where)
        try:
            pixels, labels_LN = batch["data"], np.array([_column(batch[key]) for key in version.labels])
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{where}: not a batch of {version.title} ({one_line(error)}); fetch it again") from error
        if not isinstance(pixels, np.ndarray):
            raise DataError(f"{where}: pixels are a {type(pixels).__name__}; expected uint8 (N, {PIXELS})")
    else:
        record_bytes = len(version.labels) + PIXELS
        if len(data) % record_bytes:
            raise DataError(f"{where}: {len(data)} bytes, not a multiple of {record_bytes}: truncated, fetch it again")
        records = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
        pixels, labels_LN = records[:, len(version.labels) :], records[:, : len(version.labels)].T
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise DataError(f"{where}: pixels are {pixels.dtype} {pixels.shape}; expected uint8 (N, {PIXELS})")
    count = len(pixels)
    if labels_LN.dtype.kind not in "iu" or labels_LN.shape != (len(names), count):
        raise DataError(f"{where}: labels are {labels_LN.dtype} {labels_LN.shape}; expected {count} integers")
    for labels_N, class_names in zip(labels_LN, names, strict=True):
        if count and (labels_N.min() < 0 or labels_N.max() >= len(class_names)):
            raise DataError(f"{where}: a label outside 0 to {len(class_names) - 1}; fetch it again")
    images_NHWC = np.ascontiguousarray(pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1))
    return images_NHWC, labels_LN.astype(np.int32)


def _column(labels: object) -> np.ndarray:
    """The labels of a batch, which may be a list or an array (N,) or (N, 1)."""
    if isinstance(labels, list) and not all(type(label) is int for label in labels):
        raise TypeError("labels that are not integers")
    return np.ravel(labels) if isinstance(labels, np.ndarray) and labels.shape[1:] == (1,) else np.asarray(labels)
