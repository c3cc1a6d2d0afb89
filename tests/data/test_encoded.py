"""A folder that is indexed holds exactly the images of the same folder when it is read."""

import os
import shutil

import numpy as np
import pytest

from cifar_jax.data import image_folder
from cifar_jax.errors import DataError, UsageError

COUNTS = {"train/cat": 7, "train/dog": 5}


def both(path, image_size=0):
    return (function(path, image_size=image_size) for function in (image_folder.index, image_folder.read))


@pytest.mark.parametrize("image_size", [0, 5])
@pytest.mark.parametrize("extra", [{}, {"test/dog": 3}, {"test/dog": 3, "val/cat": 2}])
def test_an_index_holds_the_images_labels_and_splits_that_reading_gives(tmp_path, write_images, image_size, extra):
    write_images(tmp_path, COUNTS | extra)
    (tmp_path / "class_names.txt").write_text("cat Felis\ndog Canis\n")
    (tmp_path / "train" / "cat" / "notes.csv").write_text("stray")
    indexed, read = both(tmp_path, image_size)
    assert indexed.is_streamed and not read.is_streamed
    assert str(indexed) == str(read) and list(indexed.splits) == list(read.splits)
    assert indexed.nbytes == read.nbytes
    for split, images in read.splits.items():
        streamed = indexed.splits[split]
        assert streamed.images_NHWC.shape == images.images_NHWC.shape
        assert streamed.images_NHWC.dtype == images.images_NHWC.dtype
        np.testing.assert_array_equal(streamed.images_NHWC[:], images.images_NHWC)
        np.testing.assert_array_equal(streamed.labels_N, images.labels_N)
        assert streamed.class_names == images.class_names


@pytest.mark.parametrize("rows", [3, np.int64(3), slice(2, 9), slice(4, 4), np.array([5, 0, 5]), np.array([], int)])
def test_rows_are_selected_as_from_an_array(tmp_path, write_images, rows):
    write_images(tmp_path, COUNTS | {"test/dog": 1})
    indexed, read = both(tmp_path)
    chosen = np.array([9, 2, 4, 7, 7, 1, 0, 3, 11])
    for a, b in ((indexed.train, read.train), (indexed.train.take(chosen), read.train.take(chosen))):
        assert a.is_streamed
        np.testing.assert_array_equal(a.images_NHWC[rows], b.images_NHWC[rows])
        assert a.images_NHWC[rows].dtype == np.uint8


def test_no_image_but_the_first_is_decoded_before_it_is_needed(tmp_path, write_images):
    write_images(tmp_path, COUNTS)
    (tmp_path / "train" / "dog" / "002.png").write_bytes(b"no image")
    images = image_folder.index(tmp_path, image_size=0).train.images_NHWC
    row = next(row for row, name in enumerate(images._names_N) if name.endswith("dog/002.png"))
    images[np.delete(np.arange(len(images)), row)]
    for rows in (row, slice(None)):
        with pytest.raises(DataError, match=r"train/dog/002\.png: not a readable image .*replace or remove"):
            images[rows]


def test_an_image_of_another_size_is_refused_when_it_is_needed(tmp_path, write_images):
    write_images(tmp_path, COUNTS)
    write_images(tmp_path / "train", {"eel": 4}, size=(9, 8))
    dataset = image_folder.index(tmp_path, image_size=0)
    with pytest.raises(UsageError, match=r"different sizes, 8x8 and 9x8 \(train/eel/.*data\.image_size=N"):
        dataset.train.images_NHWC[:]
    assert image_folder.index(tmp_path, image_size=6).train.images_NHWC[:].shape[1:] == (6, 6, 3)


def test_a_file_that_cannot_be_read_is_refused_at_once(tmp_path, write_images):
    write_images(tmp_path, COUNTS)
    os.symlink(tmp_path / "nowhere.png", tmp_path / "train" / "cat" / "link.png")
    with pytest.raises(DataError, match=r"train/cat/link\.png: a link that leads to no file"):
        image_folder.index(tmp_path, image_size=0)


def test_the_fingerprint_is_that_of_names_sizes_and_labels(tmp_path, write_images):
    def fingerprint(path, image_size=0):
        return image_folder.index(path, image_size=image_size).train.fingerprint

    first = tmp_path / "first"
    write_images(first, COUNTS | {"test/cat": 1})
    shutil.copytree(first, tmp_path / "copied")
    before = fingerprint(first)
    assert fingerprint(tmp_path / "copied") == before != fingerprint(first, image_size=4)
    with open(first / "train" / "cat" / "003.png", "ab") as file:
        file.write(b"more")
    longer = fingerprint(first)
    (first / "train" / "cat" / "000.png").rename(first / "train" / "cat" / "zzz.png")
    renamed = fingerprint(first)
    (first / "train" / "cat" / "zzz.png").rename(first / "train" / "dog" / "zzz.png")
    assert len({before, longer, renamed, fingerprint(first)}) == 4
