"""NumPy's .npz files: what a header declares is compared with the file before memory is reserved."""

import math
import os
import zipfile
from collections.abc import Container
from typing import BinaryIO

import numpy as np

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import open_zip, require_plausible_size

_ENDING = ".npy"
_KINDS = "biufSU"  # bool, integers, floats, bytes, text


def read_npz(file: BinaryIO, *, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of numbers or text in a .npz, or those of them in `names`; others are not read.

    Raises:
        DataError: an array of objects or records, or of another size than its header declares; or more than is
            plausible for the file.
        Exception: almost any, if the file is damaged.
    """
    with open_zip(file) as archive:
        members = {info.filename.removesuffix(_ENDING): info for info in archive.infolist()}
        members = {name: info for name, info in members.items() if names is None or name in names}
        total = sum(info.file_size for info in members.values())
        require_plausible_size(total, stored=file.seek(0, os.SEEK_END), where="the arrays")
        return {name: _array(archive, info, name) for name, info in members.items()}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            shape, _, dtype = read_header[version](member)
        except Exception as error:  # NumPy evaluates the text, which may be anything
            raise DataError(f"{name[:80]!a} has a damaged header; write the file again") from error
        start = member.tell()
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise DataError(
            f"{name[:80]!a} is an array of {dtype.name[:40]}; expected numbers or text, write it again as such"
        )
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != info.file_size - start:
        raise DataError(f"{name[:80]!a} declares {dtype} {shape}, which is not its size in the file; write it again")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
