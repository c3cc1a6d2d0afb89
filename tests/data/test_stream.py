"""Streamed batches hold the rows asked for, on the devices that should have them."""

import contextlib
import threading

import jax
import numpy as np
import pytest

from cifar_jax.data import image_folder
from cifar_jax.data.batches import DeviceBatch, abstract_batch, place
from cifar_jax.data.stream import READY, stream
from cifar_jax.devices import SHARDED, make_mesh, replicate, rows_of_process, split_over_devices
from cifar_jax.errors import DataError


@pytest.fixture
def images(tmp_path, write_images):
    write_images(tmp_path, {"train/cat": 20, "train/dog": 17, "test/cat": 1})
    return image_folder.index(tmp_path, image_size=0).train


def rows(batches: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 37, (batches, size))


@pytest.mark.parametrize("batches, size", [(3, 1), (5, 7), (1, 48), (4, 64)])
@pytest.mark.parametrize("threads", [1, 4])
def test_batches_are_the_rows_in_order(images, batches, size, threads):
    rows_EB = rows(batches, size)
    streamed = list(stream(images, rows_EB, threads=threads, place=lambda *batch: batch))
    assert len(streamed) == batches
    for (images_BHWC, labels_B), rows_B in zip(streamed, rows_EB, strict=True):
        np.testing.assert_array_equal(images_BHWC, images.images_NHWC[rows_B])
        np.testing.assert_array_equal(labels_B, images.labels_N[rows_B])
        assert images_BHWC.dtype == np.uint8 and labels_B.dtype == np.int32


@pytest.mark.parametrize("number", [1, 2, 8])
def test_batches_are_split_over_the_devices(images, number):
    mesh, rows_EB = make_mesh(number), rows(4, 16)
    expected = abstract_batch(images, mesh, batch_size=16)
    pick = split_over_devices(DeviceBatch.batch, mesh, in_specs=(SHARDED, SHARDED), out_specs=SHARDED)
    with contextlib.closing(place(images, mesh).batches(replicate(rows_EB, mesh), start=1)) as batches:
        for rows_B, data in zip(rows_EB[1:], batches, strict=True):
            for array, like in zip(data, expected, strict=True):
                assert (array.shape, array.dtype, array.sharding) == (like.shape, like.dtype, like.sharding)
            images_BHWC, labels_B = jax.jit(pick)(data, rows_B)
            np.testing.assert_array_equal(images_BHWC, images.images_NHWC[rows_B])
            np.testing.assert_array_equal(labels_B, images.labels_N[rows_B])


def test_one_process_has_all_rows():
    np.testing.assert_array_equal(rows_of_process(24, make_mesh(8)), np.arange(24))


def test_few_batches_are_decoded_ahead(images):
    placed = []
    batches = stream(images, rows(50, 8), threads=2, place=lambda *batch: placed.append(batch))
    next(batches)
    batches.close()
    assert len(placed) <= READY + 3  # taken, waiting, in the hands of the thread


def test_an_image_that_cannot_be_read_ends_the_stream_and_its_threads(images, tmp_path):
    (tmp_path / "train" / "dog" / "003.png").write_bytes(b"no image")
    before = threading.active_count()
    with pytest.raises(DataError, match=r"dog/003\.png: not a readable image"):
        list(stream(images, np.arange(36).reshape(9, 4), threads=2, place=lambda *batch: batch))
    for thread in threading.enumerate():
        if thread.name.startswith("grain"):
            thread.join(10)
    assert threading.active_count() <= before
