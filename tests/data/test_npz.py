import re

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
        ({"x_train": np.uint8(0)}, r"x_train is uint8 \(\); expected uint8 \(N, H, W, 3\)"),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, r"x_train .* N > 0"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8)}, r"x_test .*; expected uint8 \(N, 4, 5, 3\)"),
        ({"y_train": np.zeros(5, int)}, r"y_train is int64 \(5,\); expected integers \(6,\)"),
        ({"y_test": np.array([0, 3])}, "y_test has 0 to 3; expected labels 0 to 2"),
        ({"y_test": np.array([-1, 0])}, "y_test has labels from -1; expected labels from 0"),
        ({"class_names": np.array(["a", "b"])}, "y_train has 0 to 2; expected labels 0 to 1"),
        ({"class_names": np.arange(3)}, "class_names is int64"),
        ({"class_names": np.array(list("abcdefg"))}, r"class_names is <U1 \(7,\); expected .* no more than images"),
        ({"class_names": np.array(["a", "b", "c"], object)}, "'class_names' is an array of object"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, "y_train has 3 classes, labels up to 3, and none with 0; add"),
        ({"y_train": np.array([0, 0, 0, 1, 1, 1 << 40])}, "y_train has 3 classes, labels up to 1099511627776"),
    ],
)
def test_wrong_arrays_are_named_with_what_was_expected(tmp_path, arrays, change, message):
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, arrays | change)
    assert "images.npz" in str(caught.value) and "\n" not in str(caught.value)


CONVERTED = {
    "floats from 0 to 1": ("x_train", lambda x: (x / 255).astype(np.float32)),
    "integers": ("x_train", lambda x: x.astype(np.int64)),
    "rows of CIFAR": ("x_train", lambda x: x.transpose(0, 3, 1, 2).reshape(6, -1)),
    "an alpha channel": ("x_train", lambda x: np.concatenate([x, x[..., :1]], axis=-1)),
    "labels as floats": ("y_train", lambda y: y[:, 0].astype(np.float32)),
    "labels as bool": ("y_train", lambda y: y[:, 0] > 1),
    "one-hot labels": ("y_train", lambda y: np.eye(3, dtype=np.float32)[y[:, 0]]),
    "labels from 1": ("y_train", lambda y: y[:, 0] + 1),
    "labels as text": ("y_train", lambda y: np.array(["ant", "bee", "cat"])[y[:, 0]]),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_only_the_user_can_know_is_refused_and_the_message_has_the_conversion(name, tmp_path, arrays):
    random, (key, change) = np.random.default_rng(0), CONVERTED[name]
    arrays = {"x_train": random.integers(0, 256, (6, 32, 32, 3), np.uint8), "y_train": arrays["y_train"]}
    arrays |= {"x_test": arrays["x_train"], "y_test": arrays["y_train"][:, 0]}
    original = arrays[key]
    changed = arrays | {key: change(original)}
    with pytest.raises(DataError, match=f"{key} (is|has)") as caught:
        _read(tmp_path, changed)
    scope = {"np": np, key: changed[key]}
    conversion = re.search(r"(?:convert (?:it|them)|number them|channel): (.*?)(?: if .*)?$", str(caught.value))[1]
    is_statement = " = " in conversion
    (exec if is_statement else eval)(conversion, scope)
    converted = scope[key] if is_statement else eval(conversion, scope)
    if key == "x_train" or name != "labels as bool":
        np.testing.assert_array_equal(converted, original[:, 0] if key == "y_train" else original)
    _read(tmp_path, changed | {key: converted} | ({"y_test": converted} if "bool" in name else {}))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), r"x_train is \(6, 3, 4, 5\); its second axis is taken for the channels"),
        (lambda x: x[..., 0], r"x_train is gray \(6, 4, 5\); each value is used for red, green and blue"),
        (lambda x: x[..., :1], r"x_train is gray \(6, 4, 5, 1\)"),
        (lambda x: np.asfortranarray(x), None),
    ],
)
def test_other_layouts_are_converted_and_named(stored, message, tmp_path, arrays, caplog):
    caplog.set_level("INFO")
    images, arrays["x_train"] = arrays["x_train"], stored(arrays["x_train"])
    dataset = _read(tmp_path, arrays)
    if message and "gray" in message:
        images = np.stack([images[..., 0]] * 3, axis=-1)
    np.testing.assert_array_equal(dataset.train.images_NHWC, images)
    assert [bool(re.search(message, line)) for line in caplog.messages] == [True] if message else not caplog.messages


def test_big_endian_labels_and_other_arrays_in_the_file(tmp_path, arrays):
    dataset = _read(tmp_path, arrays | {"y_train": arrays["y_train"].astype(">i2"), "more": np.array([{}], object)})
    np.testing.assert_array_equal(dataset.train.labels_N, [0, 1, 2, 0, 1, 2])


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
