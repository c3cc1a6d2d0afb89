"""predictions.npz: labels, predictions and logits of the images of a split, in order."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from cifar_jax.errors import DataError, one_line
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.untrusted import open_regular


def write_predictions(path: Path, *, labels_N: np.ndarray, predictions_N: np.ndarray, **logits_NK: np.ndarray) -> None:
    """Writes int32 labels and predictions, and float32 logits by name, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        np.savez(temporary, labels=labels_N, predictions=predictions_N, **logits_NK)


def read_predictions(path: Path, *, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions, integers (n,). Nothing else in the file is read; zip files have a checksum per array.

    Raises:
        DataError: the file is missing, damaged, or of another number of images.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, "labels", n), _read(archive, "predictions", n)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    # NotImplementedError: zipfile's, for an unknown compression; RuntimeError: for an encrypted member
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}") from error


def _read(archive: zipfile.ZipFile, name: str, n: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape != (n,) or dtype.kind not in "iu":
            raise ValueError(f"{name} is {dtype} {shape}, must be integers ({n},)")
        content = file.read(n * dtype.itemsize + 1)  # to its end: only then is the checksum compared
    if len(content) != n * dtype.itemsize:
        raise ValueError(f"{name} has {len(content)} bytes, must have {n * dtype.itemsize}")
    return np.frombuffer(content, dtype)
