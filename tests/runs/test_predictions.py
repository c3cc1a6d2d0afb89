"""predictions.npz is checked on reading: no damage is read as predictions, and none ends in a foreign exception."""

import io
import random
import zipfile

import numpy as np
import pytest

from cifar_jax.errors import DataError
from cifar_jax.runs.predictions import read_logits, write_predictions

N = 7
LABELS_N = np.arange(N, dtype=np.int32) % 3
PREDICTIONS_N = np.zeros(N, np.int32)
LOGITS_NK = np.arange(3 * N, dtype=np.float32).reshape(N, 3)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "predictions.npz"
    write_predictions(file, labels_N=LABELS_N, predictions_N=PREDICTIONS_N, logits=LOGITS_NK)
    return file


def read(path, shape=LOGITS_NK.shape):
    return read_logits(path, name="logits", shape=shape)


def assert_read(path):
    logits_NK, labels_N = read(path)
    np.testing.assert_array_equal(logits_NK, LOGITS_NK)
    np.testing.assert_array_equal(labels_N, LABELS_N)


def test_what_was_written_comes_back(path):
    assert_read(path)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["predictions"], PREDICTIONS_N)
    with pytest.raises(DataError, match=r"logits is float32 \(7, 3\), must be numbers in row order \(7, 4\)"):
        read(path, (N, 4))
    with pytest.raises(DataError, match="damaged"):
        read_logits(path, name="logits_tta", shape=(N, 3))


def test_a_flipped_bit_or_a_cut_is_an_error_or_changes_nothing(path):
    content, choose, refused = path.read_bytes(), random.Random(0), 0
    for case in range(3000):
        damaged = bytearray(content)
        if case % 3:
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        else:
            del damaged[choose.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            assert_read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 1500


@pytest.mark.parametrize(
    "labels",
    [
        np.array([None] * N),  # a pickle
        np.zeros((N, 1), np.int32),
        np.zeros(N, np.float32),
        np.zeros(N, "V8"),
        np.zeros(N, "U5"),
    ],
)
def test_arrays_of_another_kind_are_refused(path, labels):
    np.savez(path, labels=labels, logits=LOGITS_NK)
    with pytest.raises(DataError, match="damaged"):
        read(path)


@pytest.mark.parametrize("logits_NK", [LOGITS_NK.astype(np.int32), np.asfortranarray(LOGITS_NK), LOGITS_NK + 0j])
def test_logits_of_another_kind_are_refused(path, logits_NK):
    np.savez(path, labels=LABELS_N, logits=logits_NK)
    with pytest.raises(DataError, match="damaged"):
        read(path)


def test_a_declared_size_takes_no_memory(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45, 3)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", header.getvalue())
    for n in (N, 1 << 45):
        with pytest.raises(DataError, match="damaged"):
            read(path, (n, 3))


def test_other_files_are_refused(path):
    for content in (b"", b"{}", b"PK\x03\x04" + b"\0" * 50):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(path)
