"""Refuses images on another scale than that of the pretrained weights, before any training.

The most common mistake in transfer learning: Caffe's ResNet-50 expects colors of 0..255 minus their mean and gets 0..1.
Nothing crashes, but the features are almost constant and the accuracy is a fraction of what it should be. The running
statistics of the first BatchNorm reveal it: they are those of its input on the images that the weights were trained on.
"""

import dataclasses
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

    The distance is the Kullback-Leibler divergence between normal distributions, averaged over channels. Nothing is
    checked if `model.first_norm` is None.

    Raises:
        DataError: another reading of the images (255 times brighter, blue and red swapped, the weights' own mean and
            standard deviation) comes much closer.
    """
    images = experiment.splits["train"].images_NHWC
    chosen = np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int)

    def distances_of(variables, images_NHWC):
        readings = _readings(experiment, images_NHWC)
        return {name: _distance(experiment.model.first_norm(variables, inputs)) for name, inputs in readings}

    # One program for all readings: without `jit`, each small operation of a resize would be compiled.
    variables = {"params": experiment.backbone.params, "batch_stats": experiment.backbone.batch_stats}
    distances = jax.device_get(quickly_compiled(distances_of)(variables, images[chosen].astype(np.float32)))
    as_given = distances.pop("")
    if as_given is None:
        return
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


def _distance(first_norm: tuple[jax.Array, dict] | None) -> jax.Array | None:
    """Nats, of a norm's input from its running statistics."""
    if first_norm is None:
        return None
    x_NHWC, running = first_norm
    mean_C, variance_C = x_NHWC.mean(axis=(0, 1, 2)), x_NHWC.var(axis=(0, 1, 2))
    # The floor keeps dead channels, whose variance is near 0, from deciding.
    floor = 1e-3 * running["var"].mean()
    ratio_C = (variance_C + floor) / (running["var"] + floor)
    moved_C = (mean_C - running["mean"]) ** 2 / (running["var"] + floor)
    return ((ratio_C - 1 - jnp.log(ratio_C) + moved_C) / 2).mean()
