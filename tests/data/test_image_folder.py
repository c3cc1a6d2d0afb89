import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import image_folder
from cifar_jax.errors import DataError, UsageError

SPLITS = {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2}


def _read(path, image_size=0):
    return image_folder.read(path, image_size=image_size)


def _assert_holds(dataset, written):
    """Exactly the images written, each with its label."""
    for split, images in (("train", dataset.train), ("test", dataset.test)):
        names = sorted(name for name in written if name.startswith(split))
        np.testing.assert_array_equal(images.images_NHWC, np.stack([written[name] for name in names]))
        assert [dataset.class_names[label] for label in images.labels_N] == [n.split("/")[1] for n in names]
        assert images.images_NHWC.dtype == np.uint8 and images.labels_N.dtype == np.int32


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("file_format", ["folder", "tar", "gztar", "xztar", "zip"])
def test_folders_and_archives_of_them_are_equal(tmp_path, write_images, file_format, wrapped):
    root = tmp_path / "images"
    written = write_images(root / "wrapping" if wrapped else root, SPLITS)
    inner = root / "wrapping" if wrapped else root
    (inner / "README.txt").write_text("stray")
    (inner / "train" / "labels.csv").write_text("stray")
    (inner / "train" / "cat" / "Thumbs.db").write_text("stray")
    (inner / "train" / ".DS_Store").write_text("hidden")
    (root / "__MACOSX" / "train" / "bird").mkdir(parents=True)
    path = root if file_format == "folder" else shutil.make_archive(str(tmp_path / "made"), file_format, root)
    dataset = _read(type(root)(path))
    _assert_holds(dataset, written)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.name == ("images" if file_format == "folder" else "made")


def test_order_does_not_depend_on_the_order_in_the_archive(tmp_path, write_images):
    written = write_images(tmp_path / "images", SPLITS)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in sorted(written, reverse=True):
            archive.add(tmp_path / "images" / name, name)
    _assert_holds(_read(tmp_path / "x.tar"), written)


def test_validation_and_test_splits_are_kept_apart(tmp_path, write_images):
    write_images(tmp_path, SPLITS | {"valid/dog": 4})
    dataset = _read(tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (5, 4, 3)
    np.testing.assert_array_equal(dataset.validation.labels_N, 1)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_without_test_validation_is_the_test_split(tmp_path, write_images, name):
    write_images(tmp_path, {"train/cat": 3, "train/dog": 2, f"{name}/dog": 4})
    dataset = _read(tmp_path)
    assert dataset.validation is None and len(dataset.test) == 4
    assert dataset.origin == "from split folders, the validation images used as test"


@pytest.mark.parametrize("prefix", ["", "train/", "wrapping/"])
def test_without_splits_a_sixth_of_each_class_is_held_out(tmp_path, write_images, prefix):
    write_images(tmp_path, {f"{prefix}cat": 12, f"{prefix}dog": 6})
    first, again = _read(tmp_path), _read(tmp_path)
    np.testing.assert_array_equal(np.bincount(first.test.labels_N), [2, 1])
    np.testing.assert_array_equal(np.bincount(first.train.labels_N), [10, 5])
    assert first.test.fingerprint == again.test.fingerprint
    splits = "split" if prefix == "train/" else "class"
    assert first.origin == f"from {splits} folders, a sixth of train held out as test"


def test_a_class_may_be_called_train(tmp_path, write_images):
    write_images(tmp_path, {"car": 6, "train": 6})
    assert _read(tmp_path).class_names == ("car", "train")


def test_class_names_come_from_the_text_file_if_it_covers_all(tmp_path, write_images):
    write_images(tmp_path, {"train/n01": 2, "train/n02": 2, "train/n03": 2, "test/n02": 1})
    text = tmp_path / "class_names.txt"
    text.write_text("n03\tcrane\nn09 unused\nn01 goldfish, Carassius\nn02 crane\n")
    assert _read(tmp_path).class_names == ("goldfish, Carassius", "crane (n02)", "crane (n03)")
    shutil.rmtree(tmp_path / "test")  # `train` alone is no wrapping folder: the text beside it still counts
    assert _read(tmp_path).class_names[0] == "goldfish, Carassius"
    text.write_text("n03 crane\n")
    assert _read(tmp_path).class_names == ("n01", "n02", "n03")


def test_sizes_must_agree_or_be_given(tmp_path, write_images):
    write_images(tmp_path, {"train/cat": 1}, size=(8, 8))
    write_images(tmp_path, {"train/dog": 1, "test/dog": 1}, size=(9, 6))
    with pytest.raises(UsageError, match=r"8x8.*9x6|9x6.*8x8") as caught:
        _read(tmp_path)
    assert "--config.data.image_size=N" in str(caught.value) and str(caught.value).count("000.png") == 2
    assert _read(tmp_path, image_size=5).train.images_NHWC.shape == (2, 5, 5, 3)


@pytest.mark.parametrize("outer", ["", "wrapping/"])
def test_class_folder_without_images_is_named(tmp_path, write_images, outer):
    write_images(tmp_path / "images" / outer, SPLITS)
    (tmp_path / "images" / outer / "train" / "emu").mkdir()
    (tmp_path / "images" / outer / "train" / "emu" / "notes.txt").write_text("no image")
    archive = shutil.make_archive(str(tmp_path / "x"), "xztar", tmp_path / "images")
    for path in (tmp_path / "images", type(tmp_path)(archive)):
        with pytest.raises(DataError, match=f"{path}/{outer}train/emu: class folder without images"):
            _read(path)


def test_class_folder_without_images_is_named_where_there_are_no_splits(tmp_path, write_images):
    write_images(tmp_path, {"cat": 6, "dog": 6})
    (tmp_path / "emu").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/emu: class folder without images"):
        _read(tmp_path)


def test_unreadable_image_is_named(tmp_path, write_images):
    write_images(tmp_path / "images", SPLITS)
    bad = tmp_path / "images" / "train" / "cat" / "001.png"
    bad.write_bytes(bad.read_bytes()[:60])
    archive = shutil.make_archive(str(tmp_path / "x"), "gztar", tmp_path / "images")
    for path in (tmp_path / "images", type(tmp_path)(archive)):
        with pytest.raises(DataError, match=f"{path}/train/cat/001.png: not a readable image"):
            _read(path)


def test_class_that_only_the_test_split_has_is_an_error(tmp_path, write_images):
    write_images(tmp_path, SPLITS | {"test/emu": 1})
    with pytest.raises(DataError, match="test/emu: no such class in train"):
        _read(tmp_path)


def test_folder_without_images_or_without_classes_is_an_error(tmp_path, write_images):
    with pytest.raises(DataError, match="contains no images"):
        _read(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no class folder"):
        _read(tmp_path)


def test_truncated_archive_is_named(tmp_path, write_images):
    write_images(tmp_path / "images", SPLITS)
    path = type(tmp_path)(shutil.make_archive(str(tmp_path / "x"), "xztar", tmp_path / "images"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=f"{path}: truncated"):
        _read(path)


def test_jpegs_of_a_tar_equal_those_pillow_opens(tmp_path):
    """The oracle reads the files one by one, from a folder, and never sees the tar."""
    random = np.random.default_rng(0)
    expected = []
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for i in range(8):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=75)
            (tmp_path / f"{i}.jpg").write_bytes(file.getvalue())
            expected.append(np.asarray(Image.open(tmp_path / f"{i}.jpg").convert("RGB")))
            archive.add(tmp_path / f"{i}.jpg", f"./{'test' if i == 7 else 'train'}/c{i % 2}/{i}.jpg")
    dataset = _read(tmp_path / "x.tar")
    by_class = [expected[i] for i in (0, 2, 4, 6, 1, 3, 5)]
    np.testing.assert_array_equal(dataset.train.images_NHWC, by_class)
    np.testing.assert_array_equal(dataset.test.images_NHWC, expected[7:])
