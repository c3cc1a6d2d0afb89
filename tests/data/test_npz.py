import numpy as np
import pytest

from cifar_jax.data import npz
from cifar_jax.errors import DataError


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (6, 4, 5, 3), np.uint8),
        "y_train": np.array([[0], [1], [2], [0], [1], [2]], np.int64),
        "x_test": random.integers(0, 256, (2, 4, 5, 3), np.uint8),
        "y_test": np.array([2, 0], np.uint8),
    }


def _read(tmp_path, arrays):
    np.savez(tmp_path / "images.npz", **arrays)
    return npz.read(tmp_path / "images.npz", image_size=0)


def _ours(arrays):
    return {key.replace("x_", "images_").replace("y_", "labels_"): value for key, value in arrays.items()}


@pytest.mark.parametrize("rename", [dict, _ours])
def test_both_namings_are_read(tmp_path, arrays, rename):
    dataset = _read(tmp_path, rename(arrays))
    np.testing.assert_array_equal(dataset.train.images_NHWC, arrays["x_train"])
    np.testing.assert_array_equal(dataset.train.labels_N, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(dataset.test.labels_N, [2, 0])
    assert dataset.train.labels_N.dtype == np.int32
    assert (dataset.name, dataset.class_names, dataset.validation) == ("images", ("0", "1", "2"), None)


def test_validation_and_class_names_are_read(tmp_path, arrays):
    names = {"class_names": np.array(["cat", "dog", "emu"])}
    validation = {"x_val": arrays["x_test"][:1], "y_val": np.array([1])}
    dataset = _read(tmp_path, arrays | names | validation)
    assert dataset.class_names == ("cat", "dog", "emu")
    np.testing.assert_array_equal(dataset.validation.labels_N, [1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": np.zeros((6, 4, 5, 3), np.float32)},
            r"x_train is float32 \(6, 4, 5, 3\); expected uint8",
        ),
        ({"x_train": np.uint8(0)}, r"x_train is uint8 \(\); expected uint8 \(N, H, W, 3\)"),
        ({"x_train": np.zeros((6, 4, 5), np.uint8)}, r"x_train is uint8 \(6, 4, 5\)"),
        ({"x_train": np.zeros((6, 3, 4, 5), np.uint8)}, r"x_train is uint8 \(6, 3, 4, 5\)"),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, "y_train"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8)}, r"x_test .*; expected uint8 \(N, 4, 5, 3\)"),
        (
            {"x_test": np.zeros((0, 4, 5, 3), np.uint8), "y_test": np.zeros(0, int)},
            r"x_test is uint8 \(0, 4, 5, 3\); expected uint8 \(N, 4, 5, 3\), N > 0",
        ),
        ({"y_train": np.zeros(5, int)}, r"y_train is int64 \(5,\); expected integers \(6,\)"),
        ({"y_train": np.zeros(6, np.float32)}, "y_train is float32"),
        ({"y_train": np.eye(6, 3, dtype=int)}, r"y_train is int64 \(6, 3\)"),
        ({"y_test": np.array([0, 3])}, "y_test has 0 to 3; expected labels 0 to 2"),
        ({"y_test": np.array([-1, 0])}, "y_test has -1 to 0"),
        ({"class_names": np.array(["a", "b"])}, "y_train has 0 to 2; expected labels 0 to 1"),
        ({"class_names": np.arange(3)}, "class_names is int64"),
        ({"class_names": np.array(["a", "b", "c"], object)}, "not a readable .npz of plain arrays"),
    ],
)
def test_wrong_arrays_are_named_with_what_was_expected(tmp_path, arrays, change, message):
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, arrays | change)
    assert "images.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_keys_are_named(tmp_path, arrays, key):
    del arrays[key]
    with pytest.raises(DataError, match="lacks"):
        _read(tmp_path, arrays)


def test_every_truncation_is_noticed(tmp_path, arrays):
    _read(tmp_path, arrays)
    complete = (tmp_path / "images.npz").read_bytes()
    for cut in range(0, len(complete), 31):
        (tmp_path / "cut.npz").write_bytes(complete[:cut])
        with pytest.raises(DataError, match=r"cut\.npz"):
            npz.read(tmp_path / "cut.npz", image_size=0)
