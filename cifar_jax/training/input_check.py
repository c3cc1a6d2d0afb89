"""Refuses images on another scale than pretrained weights were trained on, before any training.

The commonest mistake in transfer learning: Caffe's ResNet-50 wants colors of 0..255 without their mean, and gets 0..1,
or 0..1 without the mean of 0..255. Nothing crashes; features are all but constant, and accuracy stays a fraction of
what it should be. BatchNorm gives it away: it has kept mean and variance of what the first convolution made of the
images that the weights were trained on, and they can be held against what it makes of these.
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
from cifar_jax.models.resnet import ResNet
from cifar_jax.pretrained import Backbone

IMAGES = 256
# Another reading of the images must come this much closer to the running statistics before they are refused.
MUCH_CLOSER = 0.8


def require_right_scale(experiment: Experiment) -> None:
    """Holds the statistics of the first norm on 256 training images against its running ones.

    The distance is the Kullback-Leibler divergence between normal distributions, the mean over channels. Images are
    refused where another reading of them (255 times brighter, blue for red, by the weights' own mean and standard
    deviation) comes much closer. Weights with GroupNorm keep no statistics and cannot be checked.

    Raises:
        DataError: naming what the images look like.
    """
    if not experiment.backbone.batch_stats:
        return
    images = experiment.splits["train"].images_NHWC
    chosen = np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int)
    # One program for all readings: run by itself, each small operation of a resize would be compiled.
    compiled = quickly_compiled(functools.partial(_distances, experiment))
    distances = jax.device_get(compiled(_variables_of_stem(experiment.backbone), images[chosen].astype(np.float32)))
    as_given = distances.pop("")
    nearest = min(distances, key=distances.get)
    if distances[nearest] < MUCH_CLOSER * as_given:
        raise DataError(
            f"{experiment.dataset.source}: on the wrong scale for the weights {experiment.backbone.source}: {nearest} "
            f"(distance to their running statistics {as_given:.2f}, put right {distances[nearest]:.2f}); mend the "
            "images or config.model.input_mean and input_std, or set --config.model.check_input=False"
        )


def _readings(experiment: Experiment, images_NHWC: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """What the network is given ('' = as configured), and what it would be given if the images were put right."""
    ours, wanted = experiment.preprocessing, experiment.backbone.preprocessing
    as_wanted = dataclasses.replace(ours, mean=wanted.mean, std=wanted.std)
    yield "", ours(images_NHWC)
    if (ours.mean, ours.std) != (wanted.mean, wanted.std):
        yield "input_mean and input_std are not those of the weights", as_wanted(images_NHWC)
    yield "values of 0..1 where 0..255 are meant, or scaled twice", as_wanted(images_NHWC * 255)
    yield "blue and red are swapped (BGR for RGB)", as_wanted(images_NHWC[..., ::-1])


def _variables_of_stem(backbone: Backbone) -> dict:
    """Of a network without stages. Where the stem has no norm, the first of the stages is then its `final_norm`."""

    def of_stem(layers):
        stem = {name: layer for name, layer in layers.items() if name.startswith("stem")}
        return stem if "stem_norm1" in layers else stem | {"final_norm": layers["stage1_block1"]["norm1"]}

    return {"params": of_stem(backbone.params), "batch_stats": of_stem(backbone.batch_stats)}


def _distances(experiment: Experiment, variables: dict, images_NHWC: jax.Array) -> dict[str, jax.Array]:
    model = experiment.model.clone(stage_sizes=())
    return {name: _distance(model, variables, prepared) for name, prepared in _readings(experiment, images_NHWC)}


def _distance(model: ResNet, variables: dict, prepared_NHWC: jax.Array) -> jax.Array:
    """Nats; of the first norm's input from its running statistics."""
    if "stem_norm1" in variables["batch_stats"]:
        running = variables["batch_stats"]["stem_norm1"]
        _, kept = model.apply(
            variables,
            prepared_NHWC,
            train=False,
            method="features",
            capture_intermediates=lambda module, _: module.name == "stem_conv1",
            mutable=["intermediates"],
        )
        (x_NHWC,) = kept["intermediates"]["stem_conv1"]["__call__"]
    else:
        running = variables["batch_stats"]["final_norm"]
        x_NHWC = model.apply(variables, prepared_NHWC, train=False, method="stages")["stem"]
    mean_C, variance_C = x_NHWC.mean(axis=(0, 1, 2)), x_NHWC.var(axis=(0, 1, 2))
    # Dead channels, of variance near 0 here and there, tell nothing; the floor keeps them from deciding.
    floor = 1e-3 * running["var"].mean()
    ratio_C = (variance_C + floor) / (running["var"] + floor)
    moved_C = (mean_C - running["mean"]) ** 2 / (running["var"] + floor)
    return ((ratio_C - 1 - jnp.log(ratio_C) + moved_C) / 2).mean()
