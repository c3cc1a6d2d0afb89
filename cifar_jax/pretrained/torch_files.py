"""PyTorch's files (.pth, .pt, .ckpt, .bin) without PyTorch, and without executing what is in them.

A file is a pickle that refers to raw storages: entries of a zip since PyTorch 1.6, or bytes behind the pickles before.
Only the tensors of the state dict are read; a training checkpoint's optimizer state stays where it is.
"""

import dataclasses
import functools
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(_MAGIC, protocol=2)  # how files before the zips begin
_LARGEST_PICKLE = 16 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # of elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, elements: np.ndarray) -> np.ndarray:
        """The tensor's elements of its storage, after a check that none is outside of it or used twice."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.shape, *self.strides, 0) < 0 or (0 not in self.shape and last >= len(elements)):
            raise DataError("a tensor reaches beyond its storage; download the file again")
        if math.prod(self.shape) > len(elements):  # would take more memory than the file
            raise DataError("a tensor is larger than its storage; save tensor.contiguous() instead")
        strides = [stride * elements.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)


class _OrderedDict(dict):
    def __setstate__(self, state):
        """Ignores the attribute `_metadata` of a state dict."""


class _TorchUnpickler(Unpickler):
    """Also `_Tensor`s; notes the storages that they refer to."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        **Unpickler.allowed,
        ("collections", "OrderedDict"): _OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Tensor(*arguments[:4]),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{
            ("torch", f"{name}Storage"): _StorageType(np.dtype(dtype))
            for name, dtype in {
                **{"Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16},
                **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8},
                "Bool": np.bool_,
            }.items()
        },
    }

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, reference) -> _Storage:
        kind, storage_type, key, *_ = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise DataError("a pickle refers to something that is not a storage; do not use this file")
        return self.storages.setdefault(key, _Storage(key, storage_type.dtype))


def read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The state dict of a file of PyTorch 1.6 or newer. The zip's checksums catch damage."""
    (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
    folder = pickled.removesuffix("data.pkl")
    with archive.open(pickled) as file:
        value = _TorchUnpickler(_start(file)).load()
    return _state_dict(value, lambda storage: np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype))


def read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """The state dict of a file of PyTorch before 1.6: five pickles, then each storage with its length before it."""
    pickles = _start(file)
    if _TorchUnpickler(pickles).load() != _MAGIC:
        raise DataError("not a file of PyTorch; download it again")
    for _ in ("protocol", "sizes of the machine's types"):
        _TorchUnpickler(pickles).load()
    unpickler = _TorchUnpickler(pickles)
    value = unpickler.load()
    keys = _TorchUnpickler(pickles).load()
    file.seek(pickles.tell())
    places = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        places[key] = (file.tell(), length)
        file.seek(length * unpickler.storages[key].dtype.itemsize, 1)

    def read(storage: _Storage) -> np.ndarray:
        position, length = places[storage.key]
        file.seek(position)
        return np.frombuffer(file.read(length * storage.dtype.itemsize), storage.dtype, count=length)

    return _state_dict(value, read)


def _start(file: BinaryIO) -> io.BytesIO:
    """As much of a file as its pickles can take: a state dict has some 100 bytes for each tensor."""
    return io.BytesIO(file.read(_LARGEST_PICKLE))


def _state_dict(value, read: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the pickled value, or of the state dict within it."""
    for key in ("model", "state_dict"):  # of training checkpoints
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise DataError(f"a pickled {type(value).__name__}, where a state dict should be; save model.state_dict()")
    read = functools.cache(read)  # many tensors may share one storage
    tensors = {name: tensor for name, tensor in value.items() if isinstance(tensor, _Tensor)}
    return {name: tensor.of(read(tensor.storage)) for name, tensor in tensors.items()}
