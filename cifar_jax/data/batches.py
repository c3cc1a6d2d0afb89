"""The batches of a split on the devices: gathered from the whole split inside the compiled step, or streamed.

Both kinds of split have `batches`, whose elements are passed to a compiled program, and both kinds of element have
`batch`, which gives the program its images. Nothing else distinguishes them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from cifar_jax.data.dataset import ImageSet
from cifar_jax.data.stream import stream
from cifar_jax.devices import DATA_AXIS, cores, rows_of_process, shard_rows, shard_rows_of_process, sharded_like


class DeviceSplit(NamedTuple):
    """A split, its rows divided among the devices and padded with zeros; 45,000 images of CIFAR-10 take 138 MB."""

    images_NHWC: jax.Array  # uint8
    labels_N: jax.Array  # int32

    def batches(self, rows_EB: jax.Array | np.ndarray, *, start: int = 0) -> Iterator["DeviceSplit"]:
        """The split itself, for every batch."""
        while True:
            yield self

    def batch(self, indices_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `gather`."""
        return gather(self, indices_B)


class DeviceBatch(NamedTuple):
    """One batch of a `StreamedSplit`, its rows divided among the devices."""

    images_BHWC: jax.Array  # uint8
    labels_B: jax.Array  # int32

    def batch(self, indices_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """This device's part of the batch; `indices_B` are those that it was streamed with."""
        return self.images_BHWC, self.labels_B


class StreamedSplit:
    """A split of which only the batches in use are in memory; each process decodes those of its devices."""

    def __init__(self, images: ImageSet, mesh: Mesh):
        self._images, self._mesh = images, mesh

    def batches(self, rows_EB: jax.Array | np.ndarray, *, start: int = 0) -> Iterator[DeviceBatch]:
        """The batches with these row numbers from batch `start` on, decoded and uploaded ahead; close it after use."""
        rows_EB = jax.device_get(rows_EB)[start:]
        here = rows_of_process(rows_EB.shape[1], self._mesh)

        def place(images_BHWC: np.ndarray, labels_B: np.ndarray) -> DeviceBatch:
            return DeviceBatch(*shard_rows_of_process((images_BHWC, labels_B), self._mesh))

        return stream(self._images, rows_EB[:, here], threads=cores(), place=place)


def place(images: ImageSet, mesh: Mesh) -> DeviceSplit | StreamedSplit:
    """Uploads a split once, before training, or prepares to stream it."""
    if images.is_streamed:
        return StreamedSplit(images, mesh)
    return DeviceSplit(shard_rows(images.images_NHWC, mesh), shard_rows(images.labels_N, mesh))


def abstract_batch(images: ImageSet, mesh: Mesh, *, batch_size: int) -> DeviceSplit | DeviceBatch:
    """Shapes, dtypes and shardings of an element of `place(images, mesh).batches`; nothing is computed."""
    if images.is_streamed:
        blank_BHWC = np.broadcast_to(np.uint8(0), (batch_size, *images.images_NHWC.shape[1:]))  # takes no memory
        return sharded_like(DeviceBatch(blank_BHWC, np.zeros(batch_size, np.int32)), mesh)
    return sharded_like(DeviceSplit(images.images_NHWC, images.labels_N), mesh)


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
