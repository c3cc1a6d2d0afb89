"""The data set on the devices and the order of its batches."""

import jax
import numpy as np
import pytest

from cifar_jax.data import ImageSet
from cifar_jax.data.batches import epoch_order, gather, my_part, place
from cifar_jax.devices import REPLICATED, SHARDED, make_mesh, replicate, split_over_devices

SIZE = 37  # divides by none of the numbers of devices


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    images_NHWC = random.integers(0, 256, (SIZE, 4, 5, 3), np.uint8)
    return ImageSet(images_NHWC, random.integers(0, 1000, SIZE, np.int32), tuple(map(str, range(1000))))


@pytest.mark.parametrize("number", [1, 2, 8])
def test_gather_gives_exactly_the_rows_asked_for(images, number):
    mesh = make_mesh(number)
    split = place(images, mesh)
    assert len(split.labels_N) == -(-SIZE // number) * number
    indices_B = np.random.default_rng(1).permutation(SIZE)[:32].astype(np.int32)
    indices_B[:3] = SIZE - 1, 0, SIZE - 1  # the last row, and one row twice

    collect = split_over_devices(gather, mesh, in_specs=(SHARDED, REPLICATED), out_specs=SHARDED)
    images_BHWC, labels_B = jax.jit(collect)(split, replicate(indices_B, mesh))
    assert images_BHWC.dtype == np.uint8
    assert labels_B.dtype == np.int32
    np.testing.assert_array_equal(images_BHWC, images.images_NHWC[indices_B])
    np.testing.assert_array_equal(labels_B, images.labels_N[indices_B])


def test_every_device_holds_its_share_only(images):
    split = place(images, make_mesh(8))
    assert {shard.data.shape for shard in split.images_NHWC.addressable_shards} == {(5, 4, 5, 3)}


@pytest.mark.parametrize("number", [1, 8])
def test_the_parts_of_the_devices_make_up_the_whole(number):
    values_B = np.arange(16)
    join = split_over_devices(my_part, make_mesh(number), in_specs=REPLICATED, out_specs=SHARDED)
    np.testing.assert_array_equal(jax.jit(join)(values_B), values_B)


def order(*, seed=0, epoch=0):
    return np.array(epoch_order(seed=seed, epoch=epoch, size=SIZE, batch_size=8))


def test_an_epoch_sees_no_image_twice():
    order_EB = order()
    assert order_EB.shape == (4, 8)
    assert order_EB.dtype == np.int32
    assert len(set(order_EB.ravel())) == 32
    assert set(order_EB.ravel()) <= set(range(SIZE))


def test_every_image_is_seen_sooner_or_later():
    assert set(np.ravel([order(epoch=epoch) for epoch in range(12)])) == set(range(SIZE))


def test_the_order_is_a_function_of_seed_and_epoch():
    compiled = jax.jit(lambda epoch: epoch_order(seed=3, epoch=epoch, size=SIZE, batch_size=8))
    np.testing.assert_array_equal(order(seed=3, epoch=2), compiled(2))
    assert not np.array_equal(order(epoch=0), order(epoch=1))
    assert not np.array_equal(order(seed=0), order(seed=1))
