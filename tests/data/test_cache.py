import logging
import os

import numpy as np
import pytest

from cifar_jax.data import Dataset, ImageSet
from cifar_jax.data.cache import cached


def _dataset(value, *, validation=False):
    images = ImageSet(np.full((3, 4, 5, 3), value, np.uint8), np.array([0, 1, 1], np.int32), ("a", "ü b"))
    return Dataset("name", "source", images, images.take([2, 0]), images if validation else None)


class Reader:
    def __init__(self, dataset):
        self.dataset, self.calls = dataset, 0

    def __call__(self, path, *, image_size):
        self.calls += 1
        return self.dataset


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.tar"
    path.write_bytes(b"bytes")
    return path


@pytest.mark.parametrize("validation", [False, True])
def test_second_reading_comes_from_the_cache_and_is_equal(source, validation):
    reader = Reader(_dataset(7, validation=validation))
    cached(source, image_size=0, read=reader)
    again = cached(source, image_size=0, read=reader)
    assert reader.calls == 1
    assert (again.name, again.source, again.class_names) == ("name", "source", ("a", "ü b"))
    assert again.train.fingerprint == reader.dataset.train.fingerprint
    assert again.test.fingerprint == reader.dataset.test.fingerprint
    assert (again.validation is not None) == validation
    assert again.train.images_NHWC.dtype == np.uint8 and again.train.labels_N.dtype == np.int32


def test_changed_source_is_read_again_and_its_old_entry_removed(source, tmp_path):
    cached(source, image_size=0, read=Reader(_dataset(1)))
    os.utime(source, ns=(1, 1))
    assert cached(source, image_size=0, read=Reader(_dataset(2))).train.images_NHWC[0, 0, 0, 0] == 2
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1


def test_each_size_and_source_has_an_entry(source, tmp_path):
    other = tmp_path / "other.tar"
    other.write_bytes(b"bytes")
    for path, size, value in ((source, 0, 1), (source, 8, 2), (other, 0, 3)):
        cached(path, image_size=size, read=Reader(_dataset(value)))
    for path, size, value in ((source, 0, 1), (source, 8, 2), (other, 0, 3)):
        reader = Reader(_dataset(99))
        assert cached(path, image_size=size, read=reader).train.images_NHWC[0, 0, 0, 0] == value


@pytest.mark.parametrize("change", ["add", "remove", "rename", "empty folder"])
def test_a_change_anywhere_in_a_directory_is_noticed(tmp_path, change):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(b"1")
    (folder / "a" / "2.png").write_bytes(b"2")
    cached(folder, image_size=0, read=Reader(_dataset(1)))
    match change:
        case "add":
            (folder / "a" / "3.png").write_bytes(b"3")
        case "remove":
            (folder / "a" / "1.png").unlink()
        case "rename":
            (folder / "a" / "1.png").rename(folder / "a" / "0.png")
        case "empty folder":
            (folder / "b").mkdir()
    reader = Reader(_dataset(2))
    cached(folder, image_size=0, read=reader)
    assert reader.calls == 1


def test_every_damaged_entry_is_rebuilt(source, tmp_path, caplog):
    cached(source, image_size=0, read=Reader(_dataset(1)))
    (entry,) = (tmp_path / "cache" / "data").iterdir()
    complete = entry.read_bytes()
    damaged = [complete[:cut] for cut in range(0, len(complete), 97)]
    start = complete.index(bytes([1] * 60))  # the pixels
    damaged += [complete[:i] + bytes([complete[i] ^ 4]) + complete[i + 1 :] for i in range(start, start + 60, 7)]
    for data in damaged:
        entry.write_bytes(data)
        reader = Reader(_dataset(1))
        dataset = cached(source, image_size=0, read=reader)
        assert reader.calls == 1 and dataset.train.fingerprint == reader.dataset.train.fingerprint
        assert entry.read_bytes() == complete
    assert "is damaged" in caplog.text


def test_no_single_flipped_bit_gives_other_pixels_or_labels(source, tmp_path):
    cached(source, image_size=0, read=Reader(_dataset(1)))
    (entry,) = (tmp_path / "cache" / "data").iterdir()
    complete = bytearray(entry.read_bytes())
    expected = _dataset(1).train.fingerprint
    for i in range(0, len(complete), 11):
        data = complete.copy()
        data[i] ^= 1 << (i % 8)
        entry.write_bytes(data)
        assert cached(source, image_size=0, read=Reader(_dataset(1))).train.fingerprint == expected


def test_cache_that_cannot_be_written_is_a_warning(source, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "data").write_text("")  # where a folder should be
    caplog.set_level(logging.WARNING)
    assert cached(source, image_size=0, read=Reader(_dataset(5))).train.images_NHWC[0, 0, 0, 0] == 5
    assert "could not be cached" in caplog.text


def test_a_full_disk_leaves_no_temporary_file(source, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    cached(source, image_size=0, read=Reader(_dataset(5)))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_an_entry_belongs_to_the_reader_that_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    for number, module in enumerate(("old", "new")):
        reader = Reader(_dataset(number))
        reader.__module__ = module
        assert cached(tmp_path / "source", read=reader, image_size=0).train.images_NHWC[0, 0, 0, 0] == number
        assert reader.calls == 1
