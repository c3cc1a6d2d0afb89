"""PyTorch's files (.pth, .pt, .ckpt, .bin) without PyTorch, and without executing what is in them.

A file is a pickle that refers to raw storages: entries of a zip since PyTorch 1.6, or bytes behind the pickles before.
Only the tensors of one state dict are read; the rest of a training checkpoint stays where it is.
"""

import functools
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import Array
from cifar_jax.pretrained.torch_pickle import Placeholder, Storage, Tensor, TorchUnpickler, UnreadableTensor

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(_MAGIC, protocol=2)  # how files before the zips begin
_LARGEST_PICKLE = 16 << 20  # bytes

# Where training programs keep a network, preferred first. Averaged weights (EMA) are used if there is no other.
_PREFERRED = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "backbone", "encoder"),
    *("params", "weights", "checkpoint"),
)
_CONTAINERS = (dict, list, tuple)
_DEEPEST = 20  # levels of dictionaries
_AVERAGED = ("ema", "averaged", "swa", "teacher", "momentum")

Arrays = dict[str, np.ndarray]
TensorLike = Tensor | Array | UnreadableTensor


def read_zip(archive: zipfile.ZipFile) -> tuple[Arrays, list[str]]:
    """The state dict of a file of PyTorch 1.6 or newer, and what is left aside. The zip's checksums catch damage."""
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("data.pkl")]
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise DataError(
            "a TorchScript archive; save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if len(pickles) > 1 or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise DataError("a zip that PyTorch did not write; save the weights again with torch.save")
    byteorder = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
    if byteorder != b"little":
        raise DataError("written by a big-endian machine; save the weights again on another one")
    value = TorchUnpickler(_start(archive.open(pickles[0]))).load()

    def read(storage: Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype)

    return _state_dict(value, read)


def read_legacy(file: BinaryIO) -> tuple[Arrays, list[str]]:
    """The same of a file of PyTorch before 1.6: five pickles, then each storage with its length before it."""
    pickles = _start(file)
    if TorchUnpickler(pickles).load() != _MAGIC:
        raise DataError("not a file of PyTorch; download it again")
    for _ in ("protocol", "sizes of the machine's types"):
        TorchUnpickler(pickles).load()
    unpickler = TorchUnpickler(pickles)
    value = unpickler.load()
    keys = TorchUnpickler(pickles).load()
    file_bytes = file.seek(0, io.SEEK_END)
    file.seek(pickles.tell())
    places = {}
    for key in keys:
        if key not in unpickler.storages:
            raise DataError("a storage of a type that NumPy lacks; save the weights as float32")
        length = int.from_bytes(file.read(8), "little")
        places[key] = (file.tell(), length)
        if file.tell() + length * unpickler.storages[key].dtype.itemsize > file_bytes:
            raise DataError("truncated: a storage reaches beyond the end; download it again")
        file.seek(length * unpickler.storages[key].dtype.itemsize, io.SEEK_CUR)

    def read(storage: Storage) -> np.ndarray:
        position, length = places[storage.key]
        file.seek(position)
        return np.frombuffer(file.read(length * storage.dtype.itemsize), storage.dtype, count=length)

    return _state_dict(value, read)


def _start(file: BinaryIO) -> io.BytesIO:
    """As much of a file as its pickles can take: a state dict has some 100 bytes for each tensor."""
    return io.BytesIO(file.read(_LARGEST_PICKLE))


def _state_dict(value: Any, read: Callable[[Storage], np.ndarray]) -> tuple[Arrays, list[str]]:
    """The tensors of the one state dict within the pickled value that `_rank` puts first, and what is left aside."""
    found = {place: tensors for place, tensors in _dicts_of_tensors(value) if tensors}
    if not found:
        raise DataError("no dictionary of tensors in it; save one: torch.save(model.state_dict(), FILE)")
    place, second = sorted([*found, None], key=lambda place: _rank(place, found))[:2]
    if second is not None and _rank(place, found) == _rank(second, found):
        raise DataError(f"weights of several networks, {_shown(place)} and {_shown(second)}; save one of them alone")
    tensors = found.pop(place)
    if unreadable := {name: tensor for name, tensor in tensors.items() if isinstance(tensor, UnreadableTensor)}:
        name, tensor = next(iter(unreadable.items()))
        raise DataError(
            f"{len(unreadable)} tensors that cannot be read, e.g. {name} is {tensor.kind}; "
            "save a dense model with floating-point weights"
        )
    read = functools.cache(read)  # many tensors may share one storage
    arrays = {
        name: tensor.values if isinstance(tensor, Array) else tensor.of(read(tensor.storage))
        for name, tensor in tensors.items()
    }
    others = [f"{_shown(other)} ({len(rest)})" for other, rest in found.items()]
    return arrays, [f"all but {_shown(place)}"] * bool(place) + others


def _rank(place: tuple[str, ...] | None, found: dict) -> tuple:
    """Sorts state dicts: those with kernels, then not averaged, then by name, then the largest; None is the last."""
    if place is None:
        return (2,)
    words = [word.lower() for word in place]
    is_averaged = any(average in word.split("_") for word in words for average in _AVERAGED)
    known = [_PREFERRED.index(word) for word in words if word in _PREFERRED]
    has_kernels = any(isinstance(tensor, Tensor) and len(tensor.shape) > 1 for tensor in found[place].values())
    by_name = known[-1] if known else 0 if not place else len(_PREFERRED)
    return (not has_kernels, is_averaged, by_name, -len(found[place]))


def _shown(place: tuple[str, ...]) -> str:
    return ascii(".".join(place))[1:-1][-80:] or "the whole file"


def _dicts_of_tensors(value: Any) -> Iterator[tuple[tuple[str, ...], dict[str, TensorLike]]]:
    """Each dictionary of tensors in a pickled value, and each whole network, with the keys that lead there."""
    waiting, seen = [((), value)], set()
    for place, part in waiting:  # grows; a pickle may refer to itself
        if not isinstance(part, _CONTAINERS) or id(part) in seen or len(place) > _DEEPEST:
            continue
        seen.add(id(part))
        if _is_network(part):
            yield place, _of_network(part, seen)
        elif not _is_optimizer(part):
            yield place, _named(part) if isinstance(part, dict) else {}
            waiting += [((*place, key), item) for key, item in _children(part) if isinstance(item, _CONTAINERS)]


def _is_optimizer(part: Any) -> bool:
    return isinstance(part, dict) and {"state", "param_groups"} <= part.keys()


def _children(part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        yield from ((key if isinstance(key, str) else type(key).__name__, item) for key, item in part.items())
    else:
        yield from ((str(number), item) for number, item in enumerate(part))
    if isinstance(part, Placeholder):
        yield "attributes", part.state


def _named(tensors: dict) -> dict[str, TensorLike]:
    """The tensors directly in a dictionary."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(name, str) and (isinstance(tensor, (Tensor, UnreadableTensor)) or _is_array(tensor))
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, Array) and value.values is not None and value.values.dtype.kind not in "SU"


def _is_network(value: Any) -> bool:
    """Whether this was a torch.nn.Module, saved as a whole."""
    state = value.state if isinstance(value, Placeholder) else None
    return isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in ("_parameters", "_modules"))


def _of_network(network: Placeholder, seen: set[int]) -> dict[str, TensorLike]:
    """The state dict of a whole network; a layer that is used twice appears once."""
    tensors, waiting = {}, [("", network)]
    for prefix, module in waiting:  # grows
        parts = module.state
        for attribute in ("_parameters", "_buffers"):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in _named(parts.get(attribute) or {}).items()}
        for name, child in parts["_modules"].items():
            if _is_network(child) and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))
    return tensors
