"""Features of a frozen backbone: computed once for each image, then reused in every epoch."""

import jax
import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.batches import DeviceSplit
from cifar_jax.devices import shard_rows
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.experiment import Experiment


def place_features(experiment: Experiment, split: str, variables: dict) -> DeviceSplit:
    """A split on the devices, with features, float32 (N, C), instead of its images.

    Args:
        variables: params and batch_stats, replicated; those of the backbone must not change during a run.
    """
    if split not in experiment.features:
        experiment.features[split] = _extract(experiment, split, variables)
    labels_N = experiment.splits[split].labels_N
    return DeviceSplit(shard_rows(experiment.features[split], experiment.mesh), shard_rows(labels_N, experiment.mesh))


def classify(experiment: Experiment, variables: dict, features_NC: jax.Array) -> jax.Array:
    """float32 logits (N, K): the head alone."""
    return experiment.model.apply(variables, features_NC, train=False, method="classify")


def _extract(experiment: Experiment, split: str, variables: dict) -> np.ndarray:
    def features(variables, images_NHWC):
        prepared_NHWC = experiment.preprocessing(images_NHWC)
        return experiment.model.apply(variables, prepared_NHWC, train=False, method="features")

    images = experiment.splits[split]
    return predict_split(
        compile_predict(experiment.mesh, forward=features, tta=False),
        variables,
        batches.place(images, experiment.mesh),
        size=len(images),
        batch_size=experiment.config.evaluation.batch_size,
        mesh=experiment.mesh,
    )["plain"]
