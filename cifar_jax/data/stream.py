"""Batches of images that are decoded ahead of their use, in the threads of Grain.

Pillow releases Python's lock while it decodes and resizes, so that threads use several cores.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from cifar_jax.data.dataset import ImageSet

CHUNK = 32  # images in one task of a thread: a task costs 0.2 ms besides its images, as much as to decode one of 32 px
READY = 2  # batches that wait on the devices

Batch = TypeVar("Batch")


def stream(
    images: ImageSet, rows_EB: np.ndarray, *, threads: int, place: Callable[[np.ndarray, np.ndarray], Batch]
) -> Iterator[Batch]:
    """`place(images_BHWC, labels_B)` of each batch, in order; it is called in another thread, ahead of its use.

    The iterator needs no state to resume from: it starts with the first of `rows_EB`.

    Args:
        rows_EB: row numbers of every batch, integers.
        threads: that decode.

    Raises:
        DataError, UsageError: an image cannot be read, or is of another size.
    """
    import grain  # here: takes a second to import

    batch_size = rows_EB.shape[1]
    chunk = math.gcd(batch_size, CHUNK)
    chunks = batch_size // chunk

    def decode(rows_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([images.images_NHWC[row] for row in rows_C]), images.labels_N[rows_C]

    def placed(batch: tuple[np.ndarray, np.ndarray]) -> Batch:
        return place(*(values.reshape(batch_size, *values.shape[2:]) for values in batch))  # of (chunks, chunk, ...)

    tasks = grain.MapDataset.source(rows_EB.reshape(-1, chunk)).map(decode)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, chunks))
    batches = tasks.to_iter_dataset(options).batch(chunks).map(placed)
    ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=READY)
    with contextlib.closing(iter(ahead)) as iterator:
        yield from iterator
