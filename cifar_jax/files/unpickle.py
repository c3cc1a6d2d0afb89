"""Pickles from untrusted files, read without executing anything.

NumPy's own types are never used: their `__setstate__` trusts the file, and can crash the process. The replacements here
check the dtype, the shape and the number of bytes before they build an array.
"""

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np

from cifar_jax.errors import DataError

_DTYPE_CODES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class _Dtype:
    """Replaces `numpy.dtype`."""

    def __init__(self, code: str, *_):
        if code not in _DTYPE_CODES:
            raise DataError(f"dtype {code!r} in a pickle; expected one of {', '.join(_DTYPE_CODES)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        _, byte_order, *details = state
        if byte_order not in ("|", "<", ">", "=") or details != [None, None, None, -1, -1, 0]:
            raise DataError(f"dtype {self.dtype} with fields or flags in a pickle; do not use this file")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Replaces `numpy.ndarray`; `values` is the array."""

    def __init__(self, values: np.ndarray | None = None):
        self.values = values

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        self.values = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data, dtype, shape, order: str) -> np.ndarray:
    if isinstance(data, str):  # the bytes of Python 2
        data = data.encode("latin1")
    is_plain = isinstance(data, bytes) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)
    if not is_plain or any(type(size) is not int or size < 0 for size in shape):
        raise DataError("an array in a pickle that is not plain numbers; do not use this file")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise DataError(f"an array of shape {shape} and {len(data)} bytes in a pickle; fetch the file again")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None) -> _Array:
    """How protocol 5 writes an array; order 'K' is C with the axes then permuted."""
    values = _array(data, dtype, shape, "F" if order == "F" else "C")
    return _Array(values.transpose(axes) if order == "K" else values)


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise DataError(f"forbidden encoding {encoding!r} in a pickle; do not use this file")
    return text.encode("latin1")


class Unpickler(pickle._Unpickler):
    """Plain values, and arrays as `_Array`; every other global is refused.

    Pickle's implementation in Python: the one in C reserves memory for any size or index that a file names.
    """

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes empty bytes
        ("numpy", "ndarray"): None,  # an argument of _reconstruct
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy.core.multiarray", "scalar"): lambda dtype, data: _array(data, dtype, (), "C").item(),
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    }

    def __init__(self, file):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str):
        try:
            return self.allowed[module.replace("numpy._core", "numpy.core"), name]  # renamed in NumPy 2
        except KeyError:
            raise DataError(f"forbidden global {module}.{name} in a pickle; do not use this file") from None

    def load_build(self):
        """Only for classes with `__setstate__`: of other objects this opcode could set any attribute."""
        if not hasattr(type(self.stack[-2]), "__setstate__"):
            raise DataError("a pickle changes an object; do not use this file")
        super().load_build()

    def load_bytearray8(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch: ClassVar[dict] = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def unpickle(data: bytes, *, where: str) -> dict:
    """A dict of plain values and NumPy arrays from an untrusted pickle.

    Raises:
        DataError: the pickle refers to anything but arrays of numbers, is damaged, or is not a dict.
    """
    try:
        value = Unpickler(io.BytesIO(data)).load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{where}: damaged pickle ({error!r}); fetch it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a pickled {type(value).__name__}; expected a dict of arrays")
    return {key: item.values if isinstance(item, _Array) else item for key, item in value.items()}
