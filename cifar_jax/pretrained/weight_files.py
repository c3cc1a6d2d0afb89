"""Reads a weight file of any supported kind, recognized by its content, into a flat dict of named arrays."""

import io
from pathlib import Path
from typing import BinaryIO

import ml_dtypes  # noqa: F401 (adds bfloat16 to NumPy)
import numpy as np
import safetensors

from cifar_jax.errors import DataError, one_line
from cifar_jax.files.arrays import read_npz
from cifar_jax.files.untrusted import open_regular, open_zip, require_plausible_size
from cifar_jax.pretrained import keras_files, torch_files

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_NPZ_ENDING, _TORCH_ENDING = ".npy", "data.pkl"


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Every tensor of a file by its name, as stored.

    Reads Keras's .h5, .weights.h5 and .keras, PyTorch's .pth, .pt, .ckpt and .bin, .safetensors and .npz.

    Returns:
        The tensors; the texts in the header of a .safetensors file, or what `loading.write` stored in another one; and
        what else the file has, for the user: other networks, layers, an optimizer.

    Raises:
        DataError: unknown, truncated or damaged, or a pickle that contains more than tensors.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    with file:
        try:
            tensors, metadata, aside = _read(file)
            total = sum(array.nbytes for array in tensors.values())  # many may be views of the same bytes
            require_plausible_size(total, stored=file.seek(0, io.SEEK_END), where="the tensors")
            return tensors, metadata, aside
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # damage makes h5py, numpy, zipfile, json and pickle raise almost any exception
            raise DataError(f"{path}: truncated or damaged ({one_line(error)}); download it again") from error


def _read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    start = file.read(len(torch_files.LEGACY_START))
    file.seek(0)
    if start.startswith(_HDF5):
        return keras_files.read(file)
    if start.startswith(_ZIP):
        return _read_zip(file)
    if start == torch_files.LEGACY_START:
        tensors, aside = torch_files.read_legacy(file)
        return tensors, {}, aside
    if start[8:9] == b"{":
        with safetensors.safe_open(file.name, framework="numpy") as tensors:
            names = list(tensors.keys())
            return {name: tensors.get_tensor(name) for name in names}, tensors.metadata() or {}, []
    raise DataError("not a .h5, .keras, .pth, .safetensors or .npz file; check the path, or download it again")


def _read_zip(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    with open_zip(file) as archive:
        names = archive.namelist()
        if keras_files.ZIP_MEMBER in names:
            return keras_files.read_zip(archive)
        if any(name.endswith(_TORCH_ENDING) for name in names):
            tensors, aside = torch_files.read_zip(archive)
            return tensors, {}, aside
        if all(name.endswith(_NPZ_ENDING) for name in names):
            return read_npz(file), {}, []
    raise DataError("a zip file, but not a .keras, .pth or .npz file; check the path")
