"""Files of weights, each kind told by its content: a flat dict of named arrays, whatever wrote it."""

import io
import zipfile
from pathlib import Path

import ml_dtypes  # noqa: F401 (numpy learns bfloat16 from it)
import numpy as np
import safetensors

from cifar_jax.errors import DataError, one_line
from cifar_jax.pretrained import keras_files, torch_files
from cifar_jax.pretrained.backbone import ABOUT

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_KERAS_MEMBER, _NPZ_ENDING, _TORCH_ENDING = "model.weights.h5", ".npy", "data.pkl"


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Every tensor of a file by its name, as stored: Keras's .h5, .weights.h5 and .keras, PyTorch's .pth, .pt, .ckpt
    and .bin, .safetensors, .npz.

    Returns:
        The tensors, and what `write` noted in the file ('' in files of others).

    Raises:
        DataError: unknown, truncated or damaged, or a pickle that asks for more than tensors.
    """
    try:
        return _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # h5py, numpy, zipfile, json and pickle raise whatever the damage makes them raise
        raise DataError(f"{path}: truncated or damaged ({one_line(error)}); fetch it again") from error


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
        return _read_safetensors(path)
    raise DataError("none of .h5, .keras, .pth, .safetensors and .npz; wrong path, or damaged")


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
    raise DataError("a zip, but neither .keras nor .pth nor .npz; wrong path?")


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with safetensors.safe_open(path, framework="numpy") as file:
        about = (file.metadata() or {}).get(ABOUT, "")
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a dict)
