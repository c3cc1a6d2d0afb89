"""Pickles from untrusted files, read without executing anything."""

import io
import pickle

import numpy as np

from cifar_jax.errors import DataError


def unpickle(data: bytes, *, where: str) -> dict:
    """A dict of plain values and arrays from an untrusted pickle. Nothing in it is executed.

    Raises:
        DataError: the pickle asks for anything but numpy arrays, is damaged, or is no dict.
    """
    try:
        value = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise DataError(f"{where}: damaged pickle ({error!r}); fetch it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a pickled {type(value).__name__}; expected a dict of arrays")
    return value


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, with which python 3 writes bytes for python 2, and for that only."""
    if encoding != "latin1":
        raise DataError(f"forbidden encoding {encoding!r} in a pickle; do not use this file")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # numpy keeps it in a private module that has moved before
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(f"forbidden global {module}.{name} in a pickle; do not use this file") from None
