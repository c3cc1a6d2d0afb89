"""Writes files like those of `torch.save`, zipped or legacy, without PyTorch."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


class Tensor:
    """An array as PyTorch pickles it: a view of a storage."""

    def __init__(self, array, *, offset=0, shape=None, strides=None):
        self.elements = np.ascontiguousarray(array).reshape(-1)
        shape = np.shape(array) if shape is None else shape
        if strides is None:
            strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        self.arguments = (offset, shape, strides, False, {})


class _Pickler(pickle.Pickler):
    def __init__(self, file, torch):
        super().__init__(file, protocol=2)
        self.torch, self.storages = torch, {}

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            self.storages[value.key] = value.elements
            kind = getattr(self.torch, STORAGES[value.elements.dtype])
            return ("storage", kind, value.key, "cpu", value.elements.size, *value.view)
        return None

    def reducer_override(self, value):
        if isinstance(value, Tensor):
            storage = _Storage(str(len(self.storages)), value.elements, self.view)
            return self.torch._utils._rebuild_tensor_v2, (storage, *value.arguments)
        return NotImplemented


class _Storage:
    def __init__(self, key, elements, view):
        self.key, self.elements, self.view = key, elements, view


def save(path, value, torch, *, legacy=False):
    """`value`: plain values and `Tensor`s."""
    pickled = io.BytesIO()
    pickler = _Pickler(pickled, torch)
    pickler.view = (None,) if legacy else ()
    pickler.dump(value)
    if not legacy:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled.getvalue())
            archive.writestr("archive/version", "3\n")
            for key, elements in pickler.storages.items():
                archive.writestr(f"archive/data/{key}", elements.tobytes())
        return
    with open(path, "wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        file.write(pickled.getvalue())
        pickle.dump(list(pickler.storages), file, protocol=2)
        for elements in pickler.storages.values():
            file.write(elements.size.to_bytes(8, "little") + elements.tobytes())
