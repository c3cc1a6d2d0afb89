"""HDF5 files from anywhere: the datasets of numbers that the file itself contains.

A damaged file can make the C library hang or crash, so the first reading happens in a separate process.
HDF5 has several ways to make a file larger than it is, or to read other files: external storage, virtual datasets,
soft and external links, plugins for filters, datasets that are declared but not stored. None of them is followed.
"""

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import require_plausible_size

_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
_TEXTS = ("name", "cifar_jax")  # attributes that are read
_NUMBERS = (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID)
_MOST_OBJECTS = 100_000
_DEEPEST = 30  # levels of groups
_LONGEST_TEXT = 1 << 20  # bytes
_LONGEST_READING = 20.0  # seconds of the first reading, and as much again for each 100 MB


def rehearse(content: bytes) -> None:
    """Reads everything in a separate process; raises DataError if that hangs or crashes.

    0.4 s and the time of reading. Exceptions there are left to the reading that counts.
    """
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    seconds = _LONGEST_READING * (1 + len(content) / 1e8)
    try:
        done = subprocess.run(
            [sys.executable, __file__], input=content, env=environment, timeout=seconds, capture_output=True
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"damaged: the HDF5 library does not end within {seconds:.0f} s; download it again") from error
    if done.returncode < 0:
        raise DataError(f"damaged: the HDF5 library crashes with signal {-done.returncode}; download it again")


def _read_everything(content: bytes) -> None:
    with h5py.File(io.BytesIO(content)) as stored:
        groups = [stored]
        for _, item in datasets(stored, file_bytes=len(content)):
            item[()]
            groups += [item.parent, item.parent.parent]
        for group in groups:
            for key in _TEXTS:
                text(group, key)


def datasets(stored: h5py.File, *, file_bytes: int) -> Iterator[tuple[tuple[str, ...], h5py.Dataset]]:
    """The path and dataset of every array of numbers; safe to read.

    Raises:
        DataError: a link to another place, a dataset that is not stored in the file, or more than is plausible for a
            file of `file_bytes`.
    """
    declared, seen, waiting = 0, set(), [((), stored)]
    for path, item in waiting:  # grows
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:  # hard links may form a loop
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            if len(path) >= _DEEPEST or len(waiting) + len(item) > _MOST_OBJECTS:
                raise DataError("groups without end; write the file again")
            waiting += [((*path, name), _child(item, name, path)) for name in item]
        elif isinstance(item, h5py.Dataset) and isinstance(item.id.get_type(), _NUMBERS):
            declared += math.prod(item.shape or (0,)) * item.id.get_type().get_size()
            require_plausible_size(declared, stored=file_bytes, where="the datasets")
            _require_stored(item, path)
            yield path, item


def _child(group: h5py.Group, name: str, path: tuple[str, ...]) -> h5py.Group | h5py.Dataset:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{_shown((*path, name))} is a link to another place; do not use this file")
    return group[name]


def _require_stored(dataset: h5py.Dataset, path: tuple[str, ...]) -> None:
    """Raises DataError unless the values are in the file, unfiltered or compressed with gzip."""
    settings = dataset.id.get_create_plist()
    filters = {settings.get_filter(number)[0] for number in range(settings.get_nfilters())}
    if settings.get_external_count() or settings.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"the values of {_shown(path)} are in another file; do not use this file")
    if not filters <= set(_FILTERS):
        raise DataError(f"{_shown(path)} needs a filter other than gzip; write the file again without it")
    if dataset.chunks:
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        is_stored = dataset.id.get_num_chunks() == chunks
    else:
        is_stored = dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    if not is_stored:
        raise DataError(f"{_shown(path)} is declared but not stored; write the file again")


def text(item: h5py.Group, key: str) -> str:
    """A short text attribute; '' if there is none."""
    if key not in item.attrs:
        return ""
    attribute = item.attrs.get_id(key)
    if attribute.shape not in ((), (1,)) or attribute.get_storage_size() > _LONGEST_TEXT:
        return ""
    value = np.ravel(item.attrs[key])[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shown(path: tuple[str, ...]) -> str:
    return ascii("/".join(path))[1:-1][:80]


if __name__ == "__main__":
    _read_everything(sys.stdin.buffer.read())
