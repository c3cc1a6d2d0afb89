"""A split on the devices, and the batches gathered from it inside the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from cifar_jax.data.dataset import ImageSet
from cifar_jax.devices import DATA_AXIS, shard_rows


class DeviceSplit(NamedTuple):
    """A split, its rows divided among the devices and padded with zeros; 45,000 images of CIFAR-10 take 138 MB."""

    images_NHWC: jax.Array  # uint8
    labels_N: jax.Array  # int32


def place(images: ImageSet, mesh: Mesh) -> DeviceSplit:
    """Uploads a split once, before training."""
    return DeviceSplit(shard_rows(images.images_NHWC, mesh), shard_rows(images.labels_N, mesh))


def gather(split: DeviceSplit, indices_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """This device's part of a batch: uint8 images (B / devices, H, W, C) and int32 labels (B / devices,).

    Runs inside `split_over_devices`. Every device looks up the rows that it has and sends each to the device whose part
    of the batch it belongs to (`psum_scatter`: only one of the summands is not zero). The batch does not depend on the
    number of devices, and no device has more than its part of the split.

    Args:
        split: this device's shard.
        indices_B: global row numbers, int32, the same on every device; B must divide by the number of devices.
    """
    rows = len(split.labels_N)
    local_B = indices_B - lax.axis_index(DATA_AXIS) * rows
    mine_B = (local_B >= 0) & (local_B < rows)

    def pick(rows_N):
        chosen_B = jnp.take(rows_N, jnp.clip(local_B, 0, rows - 1), axis=0)
        masked_B = jnp.where(mine_B.reshape(-1, *[1] * (rows_N.ndim - 1)), chosen_B, jnp.zeros((), rows_N.dtype))
        return lax.psum_scatter(masked_B, DATA_AXIS, scatter_dimension=0, tiled=True)

    return pick(split.images_NHWC), pick(split.labels_N)


def my_part(values_B: jax.Array) -> jax.Array:
    """This device's part of values drawn for the full batch, so that they do not depend on the number of devices."""
    part = len(values_B) // lax.axis_size(DATA_AXIS)
    return lax.dynamic_slice_in_dim(values_B, lax.axis_index(DATA_AXIS) * part, part)


def epoch_order(*, seed: jax.Array, epoch: jax.Array, size: int, batch_size: int) -> jax.Array:
    """The row numbers of every batch of one epoch: int32 (steps, batch_size), a pure function of (seed, epoch).

    Each image occurs at most once; the `size % batch_size` images left out differ between epochs.
    """
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    permutation_N = jax.random.permutation(key, size)
    return permutation_N[: size - size % batch_size].reshape(-1, batch_size).astype(jnp.int32)
