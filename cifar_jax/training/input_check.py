"""Refuses images on another scale than that of the pretrained weights, before any training.

This is the most common mistake in transfer learning: Caffe's ResNet-50 expects colors of 0..255 minus their mean and
gets 0..1, or 0..1 minus the mean of 0..255. Nothing crashes, but the features are almost constant and the accuracy is a
fraction of what it should be. BatchNorm reveals it: its running statistics are those of the first convolution's output
on the images that the weights were trained on, and can be compared with the output on these images.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import quickly_compiled
from cifar_jax.errors import DataError
from cifar_jax.experiment import Experiment

IMAGES = 256
# Images are refused if another reading of them is closer to the running statistics by this factor.
MUCH_CLOSER = 0.8


def require_right_scale(experiment: Experiment) -> None:
    """Compares the statistics of 256 training images at the first norm with its running ones.

    The distance is the Kullback-Leibler divergence between normal distributions, averaged over channels. Images are
    refused if another reading of them (255 times brighter, blue and red swapped, the weights' own mean and standard
    deviation) comes much closer. Weights with GroupNorm keep no statistics and cannot be checked.

    Raises:
        DataError: naming the reading that fits better.
    """
    if not experiment.backbone.batch_stats:
        return
    images = experiment.splits["train"].images_NHWC
    chosen = np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int)
    # One program for all readings: without `jit`, each small operation of a resize would be compiled.
    compiled = quickly_compiled(functools.partial(_distances, experiment))
    variables = {"params": experiment.backbone.params, "batch_stats": experiment.backbone.batch_stats}
    distances = jax.device_get(compiled(variables, images[chosen].astype(np.float32)))
    as_given = distances.pop("")
    nearest = min(distances, key=distances.get)
    if distances[nearest] < MUCH_CLOSER * as_given:
        raise DataError(
            f"{experiment.dataset.source}: on the wrong scale for the weights {experiment.backbone.source}: {nearest} "
            f"(distance to their running statistics {as_given:.2f}, corrected {distances[nearest]:.2f}); fix the "
            "images or config.model.input_mean and input_std, or set --config.model.check_input=False"
        )


def _readings(experiment: Experiment, images_NHWC: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """The model's input as configured (''), and after the correction of each mistake."""
    configured, published = experiment.preprocessing, experiment.backbone.preprocessing
    corrected = dataclasses.replace(configured, mean=published.mean, std=published.std)
    yield "", configured(images_NHWC)
    if configured != corrected:
        yield "input_mean and input_std are not those of the weights", corrected(images_NHWC)
    yield "values of 0..1 where 0..255 are meant, or scaled twice", corrected(images_NHWC * 255)
    yield "blue and red are swapped (BGR for RGB)", corrected(images_NHWC[..., ::-1])


def _distances(experiment: Experiment, variables: dict, images_NHWC: jax.Array) -> dict[str, jax.Array]:
    first_norm = functools.partial(experiment.model.first_norm, variables)
    return {name: _distance(*first_norm(inputs)) for name, inputs in _readings(experiment, images_NHWC)}


def _distance(x_NHWC: jax.Array, running: dict) -> jax.Array:
    """Nats, of a norm's input from its running statistics."""
    mean_C, variance_C = x_NHWC.mean(axis=(0, 1, 2)), x_NHWC.var(axis=(0, 1, 2))
    # The floor keeps dead channels, whose variance is near 0, from deciding.
    floor = 1e-3 * running["var"].mean()
    ratio_C = (variance_C + floor) / (running["var"] + floor)
    moved_C = (mean_C - running["mean"]) ** 2 / (running["var"] + floor)
    return ((ratio_C - 1 - jnp.log(ratio_C) + moved_C) / 2).mean()
