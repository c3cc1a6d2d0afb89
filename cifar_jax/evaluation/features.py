"""Features of a frozen backbone, computed once per image and reused in every epoch."""

import functools

import jax
import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.batches import DeviceBatch, DeviceSplit
from cifar_jax.devices import shard_rows, sharded_like
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.experiment import Experiment


def place_features(experiment: Experiment, split: str, variables: dict) -> DeviceSplit:
    """A split on the devices, with features, float32 (N, C), instead of its images.

    Args:
        variables: params and batch_stats, on the mesh; those of the backbone must not change during a run.
    """
    images, mesh = experiment.splits[split], experiment.mesh
    if split not in experiment.features:
        experiment.features[split] = predict_split(
            compile_predict(mesh, forward=functools.partial(features, experiment), tta=False),
            variables,
            batches.place(images, mesh),
            size=len(images),
            batch_size=experiment.config.evaluation.batch_size,
            mesh=mesh,
        )["plain"]
    return DeviceSplit(shard_rows(experiment.features[split], mesh), shard_rows(images.labels_N, mesh))


def abstract_data(experiment: Experiment, split: str, *, batch_size: int) -> DeviceSplit | DeviceBatch:
    """What training and evaluation pass to a program with a batch; features instead of images where they are cached.

    Shapes, dtypes and shardings only; nothing is computed.
    """
    images = experiment.splits[split]
    if not experiment.config.train.cached_features:
        return batches.abstract_batch(images, experiment.mesh, batch_size=batch_size)
    channels = experiment.abstract_variables["params"]["head"]["kernel"].shape[0]
    features_NC = np.broadcast_to(np.float32(0), (len(images), channels))
    return sharded_like(DeviceSplit(features_NC, images.labels_N), experiment.mesh)


def classify(experiment: Experiment, variables: dict, features_NC: jax.Array) -> jax.Array:
    """float32 logits (N, K): the head alone."""
    return experiment.model.apply(variables, features_NC, train=False, method="classify")


def features(experiment: Experiment, variables: dict, images_NHWC: jax.Array) -> jax.Array:
    """float32 (N, C), of uint8 images as stored: the backbone alone."""
    prepared_NHWC = experiment.preprocessing(images_NHWC)
    return experiment.model.apply(variables, prepared_NHWC, train=False, method="features")
