import pickle
import re

import numpy as np
import pytest
from python2 import python2_pickle

from cifar_jax.data import cifar_archive
from cifar_jax.errors import DataError

EACH = pytest.mark.parametrize("version", cifar_archive.VERSIONS, ids=lambda version: version.folder)


def _published(cifar, version):
    return cifar(10 if version.title == "CIFAR-10" else 100)


@EACH
def test_all_four_versions_packed_and_unpacked(tmp_path, cifar, version):
    original = _published(cifar, version)
    for path in (original.pack(version, tmp_path / "renamed.tgz"), original.unpack(version, tmp_path)):
        assert cifar_archive.find(path, name="folder") == path
        assert cifar_archive.version_of(path) == version
        dataset = cifar_archive.read(path, image_size=0)
        original.assert_equals(dataset)
        assert dataset.name == version.title


@EACH
def test_coarse_labels_are_kept_for_tfds(tmp_path, cifar, version):
    original = _published(cifar, version)
    (_, labels_LN), _, names = cifar_archive.read_contents(original.unpack(version, tmp_path))
    np.testing.assert_array_equal(labels_LN, original.labels[:, :50])
    assert names == tuple(map(tuple, original.names))


def test_directory_with_several_archives_is_searched_by_name(tmp_path, cifar):
    ten = cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path)
    hundred = cifar(100).pack(cifar_archive.CIFAR100_BINARY, tmp_path / cifar_archive.CIFAR100_BINARY.archive)
    assert cifar_archive.find(tmp_path, name="cifar10") == ten
    assert cifar_archive.find(tmp_path, name="cifar100") == hundred


def test_other_directories_are_ignored(tmp_path, write_images):
    write_images(tmp_path, {"train/cat": 1, "test/cat": 1})
    assert cifar_archive.find(tmp_path, name="cifar10") is None


@EACH
def test_published_name_with_another_md5_is_refused(tmp_path, cifar, version):
    path = _published(cifar, version).pack(version, tmp_path / version.archive)
    with pytest.raises(DataError, match=f"{path}: md5 is [0-9a-f]{{32}}, published is {version.md5}"):
        cifar_archive.read(path, image_size=0)


@EACH
def test_truncated_archive_is_named(tmp_path, cifar, version):
    path = _published(cifar, version).pack(version, tmp_path / "x.tgz")
    complete = path.read_bytes()
    for cut in (len(complete) // 2, len(complete) - 9):
        path.write_bytes(complete[:cut])
        with pytest.raises(DataError, match=f"{path}: truncated"):
            cifar_archive.read(path, image_size=0)


@EACH
def test_short_missing_and_damaged_files_are_named(tmp_path, cifar, version):
    folder = _published(cifar, version).unpack(version, tmp_path)
    test = folder / version.test
    complete = test.read_bytes()
    test.write_bytes(complete[:-100])
    with pytest.raises(DataError, match=re.escape(str(test))):
        cifar_archive.read(folder, image_size=0)
    test.unlink()
    with pytest.raises(DataError, match=f"lacks {version.test}"):
        cifar_archive.read(folder, image_size=0)


def test_binary_file_cut_between_two_records_is_noticed(tmp_path, cifar):
    folder = cifar(10).unpack(cifar_archive.CIFAR10_BINARY, tmp_path)
    batch = folder / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-3073])
    with pytest.raises(DataError, match="49 training and 10 test images, expected five to one"):
        cifar_archive.read(folder, image_size=0)


def test_label_without_a_name_is_refused(tmp_path, cifar):
    folder = cifar(10).unpack(cifar_archive.CIFAR10_BINARY, tmp_path)
    batch = folder / "data_batch_3.bin"
    batch.write_bytes(b"\x0a" + batch.read_bytes()[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: a label outside 0 to 9"):
        cifar_archive.read(folder, image_size=0)


@pytest.mark.parametrize(
    "batch",
    [
        {"data": [1, 2], "labels": [0]},
        {"labels": [0] * 10},
        {"data": np.zeros((10, 3072), np.uint8)},
        {"data": np.zeros((10, 3071), np.uint8), "labels": [0] * 10},
        {"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9},
        {"data": np.zeros((10, 3072), np.uint8), "labels": ["a"] * 10},
        {"data": np.zeros((10, 3072), np.uint8), "labels": [[0]] * 10},
    ],
)
def test_pickle_of_something_else_is_refused(tmp_path, cifar, batch):
    folder = cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path)
    (folder / "data_batch_2").write_bytes(python2_pickle(batch))
    with pytest.raises(DataError, match="data_batch_2: ") as caught:
        cifar_archive.read(folder, image_size=0)
    assert "\n" not in str(caught.value)


def _as_text(batch):
    return {key.decode(): value for key, value in batch.items()}


REPICKLED = {
    "keys and names as bytes": lambda batch: batch,
    "keys as text": _as_text,
    "arrays in place of lists": lambda batch: {key: np.array(value) for key, value in batch.items()},
    "columns of labels": lambda b: {k: np.array(v)[:, None] if b"labels" in k else v for k, v in b.items()},
    "NumPy integers": lambda b: {k: [np.int64(n) for n in v] if b"labels" in k else v for k, v in b.items()},
    "a bytearray and text": lambda batch: {**batch, "readme": bytearray(b"re-pickled"), "by": np.str_("me")},
    "Fortran order": lambda b: {k: np.asfortranarray(v) if k == b"data" else v for k, v in b.items()},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", REPICKLED)
@pytest.mark.parametrize("version", [cifar_archive.CIFAR10_PYTHON, cifar_archive.CIFAR100_PYTHON])
def test_files_pickled_again_by_a_newer_python_and_numpy_are_read(tmp_path, cifar, version, name, protocol):
    original = _published(cifar, version)
    folder = original.unpack(version, tmp_path)
    for file in (*version.train, version.test, version.meta):
        content = pickle.loads((folder / file).read_bytes(), encoding="bytes")
        content = (
            REPICKLED[name](content) if file != version.meta else (_as_text(content) if "text" in name else content)
        )
        (folder / file).write_bytes(pickle.dumps(content, protocol))
    original.assert_equals(cifar_archive.read(folder, image_size=0))


@pytest.mark.parametrize("names", [None, [1, 2], "text", np.zeros((2, 2))])
def test_a_meta_file_without_class_names_is_refused(tmp_path, cifar, names):
    folder = cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(DataError, match=r"batches\.meta: label_names: not a list of class names"):
        cifar_archive.read(folder, image_size=0)
