"""Pickles from untrusted files, read without executing anything.

NumPy's own types are never used: their `__setstate__` trusts the file, and can crash the process. The replacements here
check the dtype, the shape and the number of bytes before they build an array. A file takes time and memory in
proportion to its size: the number of operations is limited, nothing is copied twice, and no key is hashed that a few
bytes could make endless.
"""

import functools
import gc
import io
import math
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cifar_jax.errors import DataError, one_line

_MOST_OPERATIONS = 1_000_000  # the labels and file names of CIFAR-100 take 300,000; an empty set has 216 bytes
_MOST_DIMENSIONS = 32
_DTYPE_CODES = re.compile(r"(b1|[iu][1248]|f[248]|[SU]\d{1,5})")
_MOST_KEY_PARTS = 100
_KEY_TYPES = (str, bytes, int, float, frozenset, type(None))


class _Dtype:
    """Replaces `numpy.dtype`."""

    def __init__(self, code: str, *_):
        if not isinstance(code, str) or not _DTYPE_CODES.fullmatch(code):
            shown = repr(code[:20]) if isinstance(code, str) else f"of {type(code).__name__}"
            raise DataError(f"dtype {shown} in a pickle; expected numbers or text")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        _, byte_order, *details = state
        layout = [-1, -1, 0]
        if self.dtype.kind in "SU":
            layout = [self.dtype.itemsize, self.dtype.alignment, 8 * (self.dtype.kind == "U")]
        if byte_order not in ("|", "<", ">", "=") or details != [None, None, None, *layout]:
            raise DataError(f"dtype {self.dtype} with fields or flags in a pickle; do not use this file")
        self.dtype = self.dtype.newbyteorder(byte_order)


class Array:
    """Replaces `numpy.ndarray`; `values` is the array, or None until the pickle gives its content."""

    def __init__(self, values: np.ndarray | None = None, *, to_bytes: Callable[[str], bytes] | None = None):
        self.values = values
        self._to_bytes = to_bytes

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        if isinstance(data, str) and self._to_bytes:  # the bytes of Python 2
            data = self._to_bytes(data)
        self.values = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data, dtype, shape, order: str) -> np.ndarray:
    is_plain = isinstance(data, bytes) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)
    if not is_plain or len(shape) > _MOST_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise DataError("an array in a pickle that is not plain numbers; do not use this file")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise DataError(f"an array of another size than its {len(data)} bytes in a pickle; fetch the file again")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None) -> Array:
    """How protocol 5 writes an array; order 'K' is C with the axes then permuted."""
    values = _array(data, dtype, shape, "F" if order == "F" else "C")
    return Array(values.transpose(axes) if order == "K" else values)


def _checked(opcode: int, load: Callable) -> Callable:
    """The same operation within the limits of an untrusted file."""
    keys = {
        pickle.SETITEM[0]: lambda stack: stack[-2:-1],
        **dict.fromkeys((pickle.SETITEMS[0], pickle.DICT[0]), lambda stack: stack[::2]),
        **dict.fromkeys((pickle.ADDITEMS[0], pickle.FROZENSET[0]), lambda stack: stack),
    }.get(opcode)

    def operation(unpickler) -> None:
        unpickler.operations += 1
        if unpickler.operations > _MOST_OPERATIONS:
            raise DataError("a pickle of millions of values; do not use this file")
        if keys:
            require_fast_hashes(keys(unpickler.stack))
        load(unpickler)

    return operation


def require_fast_hashes(keys: Iterable) -> None:
    """Raises DataError for a key like a tuple of tuples of ..., each level of which doubles the time of its hash."""
    for key in keys:
        parts = [key]
        for part in parts:
            if type(part) is tuple and len(parts) + len(part) <= _MOST_KEY_PARTS:
                parts += part
                continue
            is_fast = isinstance(part, _KEY_TYPES) or type(part).__hash__ is object.__hash__
            if not is_fast or (type(part) is int and part.bit_length() > 60):  # beyond, all may have one hash
                raise DataError(f"a pickle with a key of type {type(part).__name__}; do not use this file")


class _Limited(pickle._Unpickler):
    """Pickle's implementation in Python, since the one in C reserves memory for any size or index that a file names.

    It calls the functions of the table `dispatch`: here the methods of the class, within limits.
    """

    def __init_subclass__(cls):
        methods = {opcode: getattr(cls, load.__name__) for opcode, load in pickle._Unpickler.dispatch.items()}
        cls.dispatch = {opcode: _checked(opcode, method) for opcode, method in methods.items()}


class Unpickler(_Limited):
    """Plain values, and arrays as `Array`; every other global is refused."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self.operations = 0
        self._to_bytes = functools.cache(lambda text: text.encode("latin1"))  # a file may refer to a text many times
        self._allowed = self.allowed()

    def load(self) -> Any:
        was_enabled = gc.isenabled()
        gc.disable()  # it would search a million new objects again and again
        try:
            return super().load()
        finally:
            if was_enabled:
                gc.enable()

    def allowed(self) -> dict[tuple[str, str], Any]:
        """(module, name) of the globals that a pickle may refer to, and what takes their place."""
        return {
            ("_codecs", "encode"): self._encode,
            ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes empty bytes
            ("__builtin__", "bytearray"): self._bytearray,
            ("builtins", "bytearray"): self._bytearray,
            ("numpy", "ndarray"): None,  # an argument of _reconstruct
            ("numpy", "dtype"): _Dtype,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(to_bytes=self._to_bytes),
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        }

    def _encode(self, text: str, encoding: str) -> bytes:
        """How protocol 2 writes bytes."""
        if encoding != "latin1" or not isinstance(text, str):
            raise DataError("a forbidden encoding in a pickle; do not use this file")
        return self._to_bytes(text)

    def _bytearray(self, data: bytes | str = b"", encoding: str = "") -> bytes:
        return self._to_bytes(data) if isinstance(data, str) else data

    def _scalar(self, dtype: _Dtype, data: bytes | str):
        return _array(self._bytearray(data), dtype, (), "C").item()

    def find_class(self, module: str, name: str):
        try:
            return self._allowed[module.replace("numpy._core", "numpy.core"), name]  # renamed in NumPy 2
        except KeyError:
            shown = ascii(f"{module}.{name}"[:100])[1:-1]
            raise DataError(f"forbidden global {shown} in a pickle; do not use this file") from None

    def load_newobj(self):
        raise DataError("a pickle creates an object; do not use this file")

    load_newobj_ex = load_newobj

    def load_build(self):
        """Only for classes with `__setstate__`: of other objects this opcode could set any attribute."""
        if not hasattr(type(self.stack[-2]), "__setstate__"):
            raise DataError("a pickle changes an object; do not use this file")
        super().load_build()

    def load_bytearray8(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))


def unpickle(data: bytes, *, where: str) -> dict:
    """A dict of plain values and NumPy arrays from an untrusted pickle.

    Raises:
        DataError: the pickle refers to anything but arrays, is damaged, or is not a dict.
    """
    try:
        value = Unpickler(io.BytesIO(data)).load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{where}: damaged pickle ({one_line(error)}); fetch it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a pickled {type(value).__name__}; expected a dict of arrays")
    return {key: item.values if isinstance(item, Array) else item for key, item in value.items()}
