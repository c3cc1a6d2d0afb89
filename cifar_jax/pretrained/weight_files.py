"""Reads a weight file of any supported kind, recognized by its content, into a flat dict of named arrays."""

import io
import zipfile
from pathlib import Path

import ml_dtypes  # noqa: F401 (adds bfloat16 to NumPy)
import numpy as np
import safetensors

from cifar_jax.errors import DataError, one_line
from cifar_jax.pretrained import keras_files, torch_files
from cifar_jax.pretrained.backbone import METADATA_KEY

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_KERAS_MEMBER, _NPZ_ENDING, _TORCH_ENDING = "model.weights.h5", ".npy", "data.pkl"


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Every tensor of a file by its name, as stored.

    Reads Keras's .h5, .weights.h5 and .keras, PyTorch's .pth, .pt, .ckpt and .bin, .safetensors and .npz.

    Returns:
        The tensors, and the metadata that `loading.write` stored ('' in files of other programs).

    Raises:
        DataError: unknown, truncated or damaged, or a pickle that contains more than tensors.
    """
    try:
        return _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # damage makes h5py, numpy, zipfile, json and pickle raise almost any exception
        raise DataError(f"{path}: truncated or damaged ({one_line(error)}); download it again") from error


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with open(path, "rb") as file:
        start = file.read(len(torch_files.LEGACY_START))
        file.seek(0)
        if start.startswith(_HDF5):
            return keras_files.read(file)
        if start.startswith(_ZIP):
            return _read_zip(file)
        if start == torch_files.LEGACY_START:
            return torch_files.read_legacy(file), ""
    if start[8:9] == b"{":
        with safetensors.safe_open(path, framework="numpy") as tensors:
            metadata = (tensors.metadata() or {}).get(METADATA_KEY, "")
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, metadata  # noqa: SIM118 (not a dict)
    raise DataError("not a .h5, .keras, .pth, .safetensors or .npz file; check the path, or download it again")


def _read_zip(file) -> tuple[dict[str, np.ndarray], str]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if _KERAS_MEMBER in names:
            weights = io.BytesIO(archive.read(_KERAS_MEMBER))
            return keras_files.read(weights, config=archive.read("config.json"))
        if any(name.endswith(_TORCH_ENDING) for name in names):
            return torch_files.read_zip(archive), ""
        if all(name.endswith(_NPZ_ENDING) for name in names):
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays), ""
    raise DataError("a zip file, but not a .keras, .pth or .npz file; check the path")
