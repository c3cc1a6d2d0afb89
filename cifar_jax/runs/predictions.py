"""predictions.npz: labels, predictions and logits of the images of a split, in order."""

import math
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


def read_logits(path: Path, *, name: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The logits `name`, 'logits' or 'logits_tta', float32 of this shape (N, K), and the labels, integers (N,).

    Nothing else in the file is read; zip files have a checksum per array.

    Raises:
        DataError: the file is missing, damaged, or of another shape.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, name, shape, kinds="f"), _read(archive, "labels", shape[:1], kinds="iu")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    # NotImplementedError: zipfile's, for an unknown compression; RuntimeError: for an encrypted member
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}") from error


def _read(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], *, kinds: str) -> np.ndarray:
    """The array `name`, of one of the `kinds` of NumPy's data types."""
    with archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        found, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if found != shape or dtype.kind not in kinds or (is_fortran and len(shape) > 1):
            expected = "integers" if kinds == "iu" else "numbers in row order"
            raise ValueError(f"{name} is {dtype} {found}, must be {expected} {shape}")
        size = math.prod(shape) * dtype.itemsize
        content = file.read(size + 1)  # to its end: only then is the checksum compared
    if len(content) != size:
        raise ValueError(f"{name} has {len(content)} bytes, must have {size}")
    return np.frombuffer(content, dtype).reshape(shape)
