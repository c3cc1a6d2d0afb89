"""Arrays of numbers and text come back; everything else in a .npz is one line before memory is reserved."""

import io
import zipfile

import numpy as np
import pytest

from cifar_jax.errors import DataError
from cifar_jax.files.arrays import read_npz


def packed(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file


def member(array=None, *, shape=None, dtype=None):
    file = io.BytesIO()
    if shape is None:
        np.save(file, array)
    else:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        file.write(array)
    return file.getvalue()


ARRAYS = {
    "uint8": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "big endian": np.arange(3, dtype=">f4"),
    "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["cat", "zebra"]),
    "empty": np.zeros((0, 3)),
    "zero-dimensional": np.array(7),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_comes_back(save):
    file = io.BytesIO()
    save(file, **ARRAYS)
    read = read_npz(file)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_only_the_arrays_asked_for_are_read():
    file = packed({"a": member(np.arange(3)), "b": b"no array"})
    np.testing.assert_array_equal(read_npz(file, names=("a", "c"))["a"], [0, 1, 2])


@pytest.mark.parametrize(
    "data",
    [
        member(b"ab", shape=(1 << 60,), dtype="|u1"),
        member(b"ab", shape=(10**30,), dtype="|u1"),
        member(b"ab", shape=(-1, -2), dtype="|u1"),
        member(b"", shape=(0, 1 << 62, 1 << 62), dtype="<U99999"),
        member(b"ab" * 4, shape=(1,), dtype="|O"),
        member(b"ab", shape=(2,), dtype=[("a", "|u1")]),
        member(b"ab", shape=(1,), dtype="|V2"),
        member(b"ab" * 8, shape=(1,), dtype="<c16"),
        member(np.arange(9))[:-1],
        member(np.arange(9)) + b"a",
        member(np.arange(9)).replace(b"(9,)", b"(9,("),
        member(np.arange(9)).replace(b"(9,)", b"'a' "),
        member(np.arange(9)).replace(b"<i8", b"\xff\xfe\xfd"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_headers_that_are_damaged_or_declare_another_size(data):
    with pytest.raises((DataError, ValueError, KeyError, EOFError)) as caught:
        read_npz(packed({"x": data}))
    assert not isinstance(caught.value, MemoryError)


def test_zeros_that_fill_the_memory_are_refused_before_they_are_read():
    large = packed({"x": member(b"", shape=(260 << 20,), dtype="|u1") + bytes(260 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="the arrays: declares 272"):
        read_npz(large)
    np.testing.assert_array_equal(read_npz(packed({"x": member(np.zeros(1 << 20))}, zipfile.ZIP_DEFLATED))["x"], 0)
