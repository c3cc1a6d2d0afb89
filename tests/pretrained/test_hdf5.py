"""Only numbers that are in the file itself are read from HDF5."""

import io

import h5py
import numpy as np
import pytest

from cifar_jax.errors import DataError
from cifar_jax.pretrained import hdf5, weight_files


def read(path):
    return weight_files.read(path)[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.h5"


def external(file, folder):
    (folder / "secret").write_bytes(b"secret" * 20)
    file.create_dataset("layer/kernel:0", (100,), np.uint8, external=[(str(folder / "secret"), 0, 100)])


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.arange(10)
    layout = h5py.VirtualLayout((10,), int)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (10,))
    file.create_virtual_dataset("layer/kernel:0", layout)


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.arange(10)
    file["layer/kernel:0"] = h5py.ExternalLink(str(folder / "other.h5"), "secret")


def soft_link(file, folder):
    file["a/kernel:0"] = np.arange(3)
    file["b/kernel:0"] = h5py.SoftLink("/a/kernel:0")


def other_filter(file, folder):
    file.create_dataset("layer/kernel:0", data=np.arange(100), compression="lzf")


def declared_only(file, folder):
    file.create_dataset("layer/kernel:0", (1 << 20,), np.float32)


def declared_chunks(file, folder):
    dataset = file.create_dataset("layer/kernel:0", (64, 64), np.float32, chunks=(32, 32), compression="gzip")
    dataset[:32, :32] = 1


def huge(file, folder):
    file.create_dataset("layer/kernel:0", (1 << 20, 1 << 20), np.float32, chunks=(1, 1024), compression="gzip")


def zeros(file, folder):
    """1 GB in 1 MB: each chunk is stored once, and takes 1 MB of memory."""
    for number in range(300):
        data = np.zeros(1 << 20, np.uint8)
        file.create_dataset(f"layer/{number}", data=data, compression="gzip", compression_opts=9, chunks=data.shape)


def many_levels(file, folder):
    file.create_group("a/" * 100)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (external, "the values of layer/kernel:0 are in another file"),
        (virtual, "the values of layer/kernel:0 are in another file"),
        (external_link, "layer/kernel:0 is a link to another place"),
        (soft_link, "b/kernel:0 is a link to another place"),
        (other_filter, "layer/kernel:0 needs a filter other than gzip"),
        (declared_only, "layer/kernel:0 is declared but not stored"),
        (declared_chunks, "layer/kernel:0 is declared but not stored"),
        (huge, r"the datasets: declares 4,398,046,511,104 bytes of content in a file of"),
        (zeros, "the datasets: declares"),
        (many_levels, "groups without end"),
    ],
)
def test_what_is_not_in_the_file_is_not_read(write, message, path, tmp_path):
    with h5py.File(path, "w") as file:
        write(file, tmp_path)
    with pytest.raises(DataError, match=rf"x\.h5: {message}"):
        read(path)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip"}, {"chunks": (1, 2), "shuffle": True, "fletcher32": True, "compression": 9}]
)
def test_layouts_of_the_file_itself_are_read(options, path):
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(">f4")
    with h5py.File(path, "w") as file:
        file.create_dataset("layer/kernel:0", data=values, **options)
        file["layer/empty:0"] = np.zeros((0, 3))
    np.testing.assert_array_equal(read(path)["layer/kernel"], values)
    assert read(path)["layer/empty"].shape == (0, 3)


def test_a_loop_of_hard_links_ends(path):
    with h5py.File(path, "w") as file:
        file["layer/kernel:0"] = np.arange(3)
        file["layer/loop"] = file["/"]
    assert list(read(path)) == ["layer/kernel"]


def test_references_text_and_records_are_not_read(path):
    with h5py.File(path, "w") as file:
        file["layer/kernel:0"] = np.arange(3)
        file["layer/text"] = "text"
        file["layer/reference"] = file["layer"].ref
        file["layer/record"] = np.zeros(2, [("a", "i4")])
        file.create_dataset("layer/ragged", (2,), h5py.vlen_dtype(np.int32))
    assert list(read(path)) == ["layer/kernel"]


def test_only_short_text_is_read_from_attributes():
    with h5py.File(io.BytesIO(), "w", libver="latest") as file:
        file.attrs.update({"text": "cat", "bytes": np.bytes_(b"dog"), "list": ["a", "b"], "number": 1.5})
        file.attrs.create("long", np.zeros(1 << 18, "S8"))
        assert [hdf5.text(file, name) for name in ("text", "bytes", "number")] == ["cat", "dog", "1.5"]
        assert [hdf5.text(file, name) for name in ("list", "long", "absent")] == ["", "", ""]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(60)", "damaged: the HDF5 library does not end within 1 s"),
        ("import os; os.abort()", "damaged: the HDF5 library crashes with signal 6"),
    ],
)
def test_a_library_that_hangs_or_crashes_ends_only_its_own_process(program, message, path, tmp_path, monkeypatch):
    """Found by fuzzing: a text attribute whose heap has a loop."""
    with h5py.File(path, "w") as file:
        file["layer/kernel:0"] = np.arange(3)
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "program.py").write_text(program)
    monkeypatch.setattr(hdf5, "__file__", str(tmp_path / "pretrained" / "program.py"))
    monkeypatch.setattr(hdf5, "_LONGEST_READING", 1.0)
    with pytest.raises(DataError, match=message):
        read(path)
