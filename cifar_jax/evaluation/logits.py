"""Logits of whole splits, computed on the devices, each image exactly once."""

import contextlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from cifar_jax.data.batches import DeviceSplit, StreamedSplit
from cifar_jax.devices import (
    DATA_AXIS,
    REPLICATED,
    SHARDED,
    compile_to_fit,
    naming_batch,
    replicate,
    split_over_devices,
)


def mirrored_and_shifted(images_NHWC: jax.Array) -> tuple[list[jax.Array], list[float]]:
    """The six views of test-time augmentation and their weights, which sum to 1 (K. Jordan, cifar10-airbench).

    1/4 for the image and its mirror image; 1/8 for the image shifted by one pixel to the upper left and to the lower
    right (reflected at the border), and for their mirror images.
    """
    _, height, width, _ = images_NHWC.shape
    padded = jnp.pad(images_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [images_NHWC, padded[:, :height, :width], padded[:, 2:, 2:]]
    return [*views, *(view[:, :, ::-1] for view in views)], [0.25, 0.125, 0.125] * 2


def jit_predict(mesh: Mesh, *, forward: Callable, tta: bool):
    """The jitted `predict(variables, data, indices_B)` -> {'plain': logits_BK}, float32, on every device.

    `data` is an element of the `batches` of a split.

    Args:
        forward: (variables, a batch of the split: uint8 images (B, H, W, 3) or features (B, C)) -> logits_BK.
        tta: also return 'tta', the logits averaged over the `mirrored_and_shifted` views.
    """

    def predict(variables, data, indices_B):
        images_BHWC, _ = data.batch(indices_B)
        if not tta:
            logits = {"plain": forward(variables, images_BHWC)}
        else:
            views, weights = mirrored_and_shifted(images_BHWC)
            view_logits = [forward(variables, view) for view in views]
            averaged = sum(weight * logits for weight, logits in zip(weights, view_logits, strict=True))
            logits = {"plain": view_logits[0], "tta": averaged}
        return lax.all_gather(logits, DATA_AXIS, tiled=True)

    specs = (REPLICATED, SHARDED, REPLICATED)
    return jax.jit(split_over_devices(predict, mesh, in_specs=specs, out_specs=REPLICATED))


def compile_predict(mesh: Mesh, *, forward: Callable, tta: bool):
    """As `jit_predict`; compiled on first use for each size of split and batch, if it fits into the devices' memory."""
    jitted, programs = jit_predict(mesh, forward=forward, tta=tta), {}

    def run(variables, data, indices_B):
        batch_size = len(indices_B)
        kind = type(data), batch_size, *(array.shape for array in data)
        if kind not in programs:
            lowered = jitted.lower(variables, data, indices_B)
            programs[kind] = compile_to_fit(lowered, mesh, key="evaluation.batch_size", batch_size=batch_size)
        with naming_batch("evaluation.batch_size", batch_size):
            return programs[kind](variables, data, indices_B)

    return run


def predict_split(
    predict, variables, split: DeviceSplit | StreamedSplit, *, size: int, batch_size: int, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Logits of the `size` images of a split, in order, float32 (N, K) on the host.

    The last batch is padded with repeated images, whose logits are dropped.
    """
    batch_size = math.ceil(min(batch_size, size) / mesh.size) * mesh.size
    rows_N = np.arange(math.ceil(size / batch_size) * batch_size, dtype=np.int32)
    rows_EB = np.minimum(rows_N, size - 1).reshape(-1, batch_size)
    logits = []
    with contextlib.closing(split.batches(rows_EB)) as batches:
        for indices_B, data in zip(rows_EB, batches, strict=False):
            logits.append(predict(variables, data, replicate(indices_B, mesh)))
            if isinstance(split, StreamedSplit):  # no more batches and logits on the devices than two
                logits[-2:-1] = jax.device_get(logits[-2:-1])
    on_host = jax.device_get(logits)  # of a split on the devices one transfer, after all batches are dispatched
    return {name: np.concatenate([batch[name] for batch in on_host])[:size] for name in on_host[0]}
