import functools
import os
import shutil
import sys

import numpy as np
import pytest

from cifar_jax import data
from cifar_jax.config import default_config
from cifar_jax.data import cifar_archive, sources, tfds
from cifar_jax.errors import DataError, UsageError

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _load(*, allow_fallback=False, **keys):
    config = default_config().data
    config.update(keys)
    return data.load(config, allow_fallback=allow_fallback)


@pytest.fixture
def ten_classes(tmp_path, write_images):
    root = tmp_path / "images"
    counts = {f"train/{name}": 5 for name in CIFAR10_NAMES} | {f"test/{name}": 1 for name in CIFAR10_NAMES}
    write_images(root, counts, size=(32, 32))
    return root


def test_data_dir_then_environment_then_tfds(tmp_path, cifar, ten_classes, monkeypatch):
    original = cifar(10)
    binary = original.unpack(cifar_archive.CIFAR10_BINARY, tmp_path)
    installed = tfds.prepare("cifar10", archive=binary, data_dir=tfds.default_data_dir())
    assert _load(name="cifar10").source == str(installed)
    monkeypatch.setenv("CIFAR_JAX_DATA", str(binary))
    original.assert_equals(_load(name="cifar10"))
    assert _load(name="cifar10", dir=str(ten_classes)).source == str(ten_classes)


def test_every_kind_of_path_is_recognized(tmp_path, cifar, ten_classes):
    original = cifar(10)
    folder = original.unpack(cifar_archive.CIFAR10_PYTHON, tmp_path / "unpacked")
    packed = original.pack(cifar_archive.CIFAR10_BINARY, tmp_path / "anything.tar.gz")
    tfds.prepare("cifar10", archive=packed, data_dir=tmp_path / "tfds")
    np.savez(
        tmp_path / "arrays.npz",
        x_train=original.images[:50],
        y_train=np.append(original.labels[0, :49], 9),
        x_test=original.images[50:],
        y_test=original.labels[0, 50:],
    )
    for path in (folder, folder.parent, packed):
        dataset = _load(name="cifar10", dir=str(path))
        original.assert_equals(dataset)
        assert (dataset.name, dataset.source, dataset.is_fallback) == ("CIFAR-10", str(path), False)
    for path in (tmp_path / "tfds", tmp_path / "tfds" / "cifar10", tmp_path / "tfds" / "cifar10" / "3.0.2"):
        assert (_load(name="cifar10", dir=str(path)).name, len(_load(dir=str(path)).train)) == (
            "CIFAR-10",
            50,
        )
    for path in (
        ten_classes,
        *(shutil.make_archive(str(tmp_path / "x"), kind, ten_classes) for kind in ("xztar", "zip")),
    ):
        dataset = _load(name="cifar10", dir=str(path))
        assert dataset.name == f"CIFAR-10 ({str(path).rsplit('/', 1)[1]})"
        assert dataset.class_names == tuple(CIFAR10_NAMES)
    assert _load(name="cifar10", dir=str(tmp_path / "arrays.npz")).name == "CIFAR-10 (arrays.npz)"
    assert _load(name="folder", dir=str(ten_classes)).name == "images"


def test_second_load_comes_from_the_cache(ten_classes, monkeypatch):
    first = _load(name="cifar10", dir=str(ten_classes))

    @functools.wraps(sources.image_folder.read)
    def read(path, *, image_size):
        pytest.fail("read again")

    monkeypatch.setattr(sources.image_folder, "read", read)
    again = _load(name="cifar10", dir=str(ten_classes))
    assert (again.name, again.source) == (first.name, first.source)
    assert again.train.fingerprint == first.train.fingerprint


def test_the_summary_from_the_cache_is_the_same(ten_classes):
    (ten_classes / "meta").mkdir()
    shutil.copytree(ten_classes / "train" / "cat", ten_classes / "photos")
    first, again = (_load(name="folder", dir=str(ten_classes)) for _ in range(2))
    assert "photos/ (5 images" in str(first) and "meta/ (no images)" in str(first) and first.warnings
    assert str(again) == str(first) and again.warnings == first.warnings


@pytest.mark.parametrize("limit", [0, 1])
def test_one_class_is_an_error_also_after_the_limit(tmp_path, write_images, limit):
    write_images(tmp_path / "x", {"train/cat": 3, "test/cat": 2} | ({"train/dog": 1} if limit else {}))
    with pytest.raises(DataError, match=rf"x: all {limit or 3} training images are of one class, cat"):
        _load(name="folder", dir=str(tmp_path / "x"), limit=limit)


def test_devices_and_fifos_are_no_data(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(UsageError, match=f"data.dir={path}: a device, socket or FIFO; expected a folder or a file"):
            _load(name="folder", dir=str(path))


def test_image_size_resizes_images_and_is_refused_for_arrays(tmp_path, ten_classes, cifar):
    assert _load(dir=str(ten_classes), image_size=8).train.images_NHWC.shape == (50, 8, 8, 3)
    assert _load(dir=str(ten_classes)).train.images_NHWC.shape == (50, 32, 32, 3)
    folder = cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path)
    assert len(_load(dir=str(folder), image_size=32).train) == 50
    with pytest.raises(UsageError, match=r"--config\.model\.image_size=64"):
        _load(dir=str(folder), image_size=64)


def test_limit_is_stratified_over_every_split(ten_classes):
    dataset = _load(name="folder", dir=str(ten_classes), limit=20)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels_N), [2] * 10)
    assert len(dataset.test) == 10
    again = _load(name="folder", dir=str(ten_classes), limit=20)
    assert again.train.fingerprint == dataset.train.fingerprint


def test_shapes_need_no_search_and_ignore_the_environment(monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_DATA", "/does/not/exist")
    dataset = _load(name="shapes", limit=30)
    assert (dataset.name, dataset.source, dataset.is_fallback) == ("shapes", "drawn by the program", False)
    assert len(dataset.train) == len(dataset.test) == 30
    np.testing.assert_array_equal(np.bincount(dataset.train.labels_N), [3] * 10)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_fallback_data_set_comes_with_a_long_warning(name, capsys):
    dataset = _load(name=name, limit=10, allow_fallback=True)
    assert dataset.name == f"shapes (stand-in for {name})" and dataset.is_fallback
    warning = capsys.readouterr().err
    assert len(warning.strip().splitlines()) >= 8
    archive = f"cifar-{name.removeprefix('cifar')}-python.tar.gz"
    for part in ("no network in tests", dataset.name, archive, "CIFAR_JAX_DATA", "--config.data.dir", "TFDS",
                 "image folder", ".npz", "--config.data.fallback="):  # fmt: skip
        assert part in warning


@pytest.mark.parametrize(("allow_fallback", "fallback"), [(True, ""), (False, "shapes"), (False, "")])
def test_no_fallback_unless_allowed(allow_fallback, fallback, capsys):
    with pytest.raises(DataError) as caught:
        _load(name="cifar10", allow_fallback=allow_fallback, fallback=fallback)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "no network in tests",
        "cifar-10-python.tar.gz",
        "CIFAR_JAX_DATA",
        "TFDS",
        "image folder",
        ".npz",
    ):
        assert part in message
    assert capsys.readouterr().err == ""


def test_missing_path_is_named_with_the_key_it_came_from(tmp_path, monkeypatch):
    missing = str(tmp_path / "missing")
    with pytest.raises(UsageError, match=f"--config.data.dir={missing}: no such file"):
        _load(name="cifar10", dir=missing, allow_fallback=True)
    monkeypatch.setenv("CIFAR_JAX_DATA", missing)
    with pytest.raises(UsageError, match=f"CIFAR_JAX_DATA={missing}: no such file") as caught:
        _load(name="cifar10", allow_fallback=True)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "shapes", "dir": "/tmp"}, "drawn"),
        ({"name": "shapes", "image_size": 64}, "drawn"),
        ({"name": "folder"}, "needs --config.data.dir or CIFAR_JAX_DATA"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    with pytest.raises(UsageError, match=message):
        _load(allow_fallback=True, **keys)


def test_number_of_classes_must_be_that_of_the_name(ten_classes, tmp_path, write_images, cifar):
    with pytest.raises(DataError, match=r"10 classes, cifar100 has 100; use --config\.data\.name=folder"):
        _load(name="cifar100", dir=str(ten_classes), allow_fallback=True)
    folder = cifar(100).unpack(cifar_archive.CIFAR100_PYTHON, tmp_path)
    with pytest.raises(DataError, match="100 classes, cifar10 has 10"):
        _load(name="cifar10", dir=str(folder), allow_fallback=True)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}.", b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00", b"PK\x03\x04"])
def test_damaged_files_are_named_and_never_replaced_by_the_fallback(tmp_path, content):
    for name in ("data_batch_1", "cifar-10-python.tar.gz", "x.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{tmp_path}/{name}") as caught:
            _load(name="cifar10", dir=str(tmp_path / name), allow_fallback=True)
        assert "\n" not in str(caught.value)


def test_truncated_archive_given_as_data_dir_is_named(ten_classes, tmp_path):
    path = tmp_path / shutil.make_archive(str(tmp_path / "x"), "xztar", ten_classes)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=f"{path}: truncated"):
        _load(name="cifar10", dir=str(path), allow_fallback=True)
    assert not list((tmp_path / "cache").glob("*"))


def test_no_progress_bar_if_stderr_is_not_a_terminal(ten_classes, capfd):
    assert not sys.stderr.isatty()
    _load(name="folder", dir=str(ten_classes))
    captured = capfd.readouterr()
    assert captured.out == captured.err.strip() == ""  # rich before 14.3 prints an empty line


@pytest.mark.parametrize("image_size", [0, 8])
def test_a_folder_is_streamed_when_asked_for_or_too_large_for_the_memory(ten_classes, write_images, image_size, caplog):
    write_images(ten_classes, {"photos": 3}, size=(32, 32))  # not used
    config = default_config().data
    config.update(name="folder", dir=str(ten_classes), limit=20, image_size=image_size)
    decoded = 60 * 3 * (image_size or 32) ** 2  # also of the images beyond data.limit, which a reader decodes as well

    def load(pipeline, room):
        config.pipeline = pipeline
        return data.load(config, allow_fallback=False, room=room)

    with caplog.at_level("INFO"):
        assert load("auto", lambda: decoded - 1).is_streamed
    assert f"data.pipeline=stream, chosen for {ten_classes}: 0.0 GB decoded, at most 0.0 GB are kept" in caplog.text
    assert not load("auto", lambda: decoded).is_streamed
    assert not load("auto", None).is_streamed
    assert not load("device", lambda: pytest.fail("asked for the memory")).is_streamed
    streamed = load("stream", lambda: pytest.fail("asked for the memory"))
    assert streamed.is_streamed and len(streamed.train) == 20
    np.testing.assert_array_equal(streamed.train.images_NHWC[:], load("device", None).train.images_NHWC)


@pytest.mark.parametrize("source", ["zip", "npz", "archive", "tfds", "shapes"])
def test_only_a_folder_of_images_is_streamed(tmp_path, cifar, ten_classes, source):
    keys = {"name": "shapes" if source == "shapes" else "cifar10", "pipeline": "stream"}
    if source == "zip":
        keys["dir"] = shutil.make_archive(str(tmp_path / "images"), "zip", ten_classes)
    elif source == "npz":
        keys["dir"] = str(tmp_path / "arrays.npz")
        ones_N = np.ones(10, int)
        images_NHWC = np.zeros((10, 8, 8, 3), np.uint8)
        np.savez(keys["dir"], x_train=images_NHWC, y_train=ones_N, x_test=images_NHWC, y_test=ones_N)
    elif source == "archive":
        keys["dir"] = str(cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path))
    with pytest.raises(UsageError, match=r"data\.pipeline=stream: .*: only a folder of image files .*pipeline=device$"):
        _load(**keys, allow_fallback=True)
