"""Files from anywhere: opened only if they are regular, and read only as far as their sizes are plausible."""

import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from cifar_jax.errors import DataError

_ENCRYPTED = 1  # a flag of a zip's member
_FREE = 256 << 20  # bytes that any file may declare
_LARGEST_RATIO = 100  # of declared to stored bytes beyond that; deflate reaches 1,000 on zeros, images and weights 10


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a FIFO or a device, which may never end, is refused without waiting for it.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is not a regular file.
    """
    without_waiting = getattr(os, "O_NONBLOCK", 0)  # Windows has neither this flag nor FIFOs in folders
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path}: a device or FIFO; expected a regular file, copy its content into one")
    return file


def require_plausible_size(declared: int, *, stored: int, where: str) -> None:
    """Before memory is reserved: raises DataError if content of `declared` bytes cannot come from `stored` bytes.

    What is accepted takes at most 256 MB for a small file, and 100 times the size of any other.
    """
    if declared > max(_FREE, _LARGEST_RATIO * stored):
        raise DataError(
            f"{where}: declares {declared:,} bytes of content in a file of {stored:,}: damaged, or made to fill the "
            "memory; if it is yours, write it without compression"
        )


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip for reading, after a check that its members have room in the file and are not encrypted.

    Raises:
        DataError: they have not, or are encrypted.
        Exception: almost any, if the file is damaged.
    """
    archive = zipfile.ZipFile(file)
    stored = file.seek(0, os.SEEK_END)
    for info in archive.infolist():
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{info.filename[:80]!a} is encrypted; write the file again without a password")
        stored -= info.compress_size  # of members that overlap, the sum is larger than the file
    if stored < 0:
        raise DataError("a zip whose members are larger than the file: damaged, or made to fill the memory")
    return archive
