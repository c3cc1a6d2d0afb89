"""The pickles in PyTorch's files: tensors are noted, and everything else that is not plain data is inert.

Training checkpoints contain objects of any class: arguments, schedulers, whole modules. Nothing is imported or called
for them. A `Placeholder` takes the place of such an object, of its class, and of whatever a call of it would return; it
only keeps the data that the pickle gives to it, so that the tensors below it can be found.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import Array, Unpickler, require_fast_hashes

_MOST_DIMENSIONS = 32
_DTYPES = {
    **{"Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}
_UNREADABLE = {  # name in torch._utils of the function that makes a tensor -> kind of tensor
    **dict.fromkeys(("_rebuild_qtensor",), "quantized"),
    **dict.fromkeys(("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"), "sparse"),
    **dict.fromkeys(("_rebuild_meta_tensor_no_storage",), "without data (device meta)"),
    **dict.fromkeys(("_rebuild_tensor_v3",), "of a type that NumPy lacks"),
    **dict.fromkeys(("_rebuild_nested_tensor",), "nested"),
}


class Placeholder(dict):
    """An object of any other class, the class itself, or a function; does nothing.

    Attributes:
        state: what the pickle gives to the object's `__setstate__`: its attributes.
    """

    state: Any = None
    __hash__ = object.__hash__  # and not by content, which may be nested without end
    __eq__, __ne__ = object.__eq__, object.__ne__

    def __call__(self, *_, **__) -> "Placeholder":
        return Placeholder()

    def __setstate__(self, state):
        self.state = state

    def append(self, _):
        """The elements of a list of another class are not kept."""

    extend = add = append


@dataclasses.dataclass(frozen=True, eq=False)
class UnreadableTensor:
    kind: str


@dataclasses.dataclass(frozen=True, eq=False)
class StorageType:
    dtype: np.dtype | None  # None: not one of NumPy
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.shape, *self.strides)
        if len(numbers) > 1 + 2 * _MOST_DIMENSIONS or any(type(number) is not int for number in numbers):
            raise DataError("a tensor whose shape is not a short list of integers")

    def of(self, elements: np.ndarray) -> np.ndarray:
        """The tensor's elements of its storage, after a check that none is outside of it or used twice."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.shape, *self.strides, 0) < 0 or (0 not in self.shape and last >= len(elements)):
            raise DataError("a tensor reaches beyond its storage; download the file again")
        if math.prod(self.shape) > len(elements):  # would take more memory than the file
            raise DataError("a tensor is larger than its storage; save tensor.contiguous() instead")
        strides = [stride * elements.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)


class TorchUnpickler(Unpickler):
    """Plain values, `Tensor`s and placeholders; notes the storages that the tensors refer to."""

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def allowed(self) -> dict[tuple[str, str], Any]:
        return {
            **super().allowed(),
            ("collections", "OrderedDict"): self._ordered_dict,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
            ("torch._tensor", "_rebuild_from_type_v2"): lambda function, _, arguments, *__: function(*arguments),
            **{("torch._utils", name): lambda *_, k=kind: UnreadableTensor(k) for name, kind in _UNREADABLE.items()},
            **{("torch", f"{name}Storage"): StorageType(np.dtype(dtype), name) for name, dtype in _DTYPES.items()},
        }

    def _ordered_dict(self, pairs: Iterable = ()) -> dict:
        self.operations += len(pairs)  # a pickle may refer to one list many times
        require_fast_hashes(key for key, _ in pairs)
        return dict(pairs)

    def find_class(self, module: str, name: str):
        try:
            return super().find_class(module, name)
        except DataError:
            is_storage = module == "torch" and name.endswith("Storage")
            return StorageType(None, name.removesuffix("Storage")) if is_storage else Placeholder()

    def persistent_load(self, reference) -> Storage | UnreadableTensor | Placeholder:
        kind, storage_type, key, *_ = reference
        if kind == "module":  # a class with its source, in files before the zips
            return Placeholder()
        if kind != "storage" or not isinstance(key, str):
            raise DataError("a pickle refers to something that is not a storage; do not use this file")
        if not isinstance(storage_type, StorageType):
            return UnreadableTensor("without a type")
        if storage_type.dtype is None:
            return UnreadableTensor(f"of type {storage_type.name[:20]!a}")
        return self.storages.setdefault(key, Storage(key, storage_type.dtype))

    def load_reduce(self):
        """What cannot be built is not needed for the tensors."""
        arguments, function = self.stack.pop(), self.stack.pop()
        try:
            self.append(function(*arguments))
        except Exception:  # a damaged pickle calls anything
            self.append(Placeholder())

    def load_newobj(self):
        arguments, of_class = self.stack.pop(), self.stack.pop()
        self.append(of_class(*arguments) if isinstance(of_class, Placeholder) else Placeholder())

    def load_newobj_ex(self):
        self.stack.pop()  # arguments with names
        self.load_newobj()

    def load_build(self):
        """Attributes of anything but a placeholder or an array are not needed either."""
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, (Placeholder, Array)):
            with contextlib.suppress(DataError, TypeError, ValueError):  # an array of objects
                value.__setstate__(state)


def _tensor(storage: Storage | UnreadableTensor, offset, shape, strides, *_) -> Tensor | UnreadableTensor:
    if isinstance(storage, UnreadableTensor):
        return storage
    if not isinstance(storage, Storage):
        raise DataError("a tensor without a storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))
