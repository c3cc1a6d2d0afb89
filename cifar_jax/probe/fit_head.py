"""A linear probe as a training run: features of all images, L2 strength chosen on validation, one head."""

import time

import jax
import jax.numpy as jnp

from cifar_jax.devices import is_first_process, replicate
from cifar_jax.evaluation.features import place_features
from cifar_jax.experiment import Experiment
from cifar_jax.probe.logistic_regression import fit_path
from cifar_jax.runs.run_folder import RunFolder, write_json


def fit_head(experiment: Experiment, folder: RunFolder, variables: dict) -> tuple[dict, dict]:
    """Fits the head on training and validation images, with the L2 strength that was best on validation.

    Writes probe.json: every strength and its scores.

    Args:
        variables: params and batch_stats, replicated.

    Returns:
        The head's parameters, replicated; and a row of the history, with the scores of the probe that was fitted on the
        training images only.
    """
    train = _features_and_labels(experiment, "train", variables)
    validation = _features_and_labels(experiment, "validation", variables)
    started = time.perf_counter()
    probe = fit_path(*train, *validation, num_classes=experiment.model.num_classes)
    seconds = time.perf_counter() - started
    chosen = next(scores for scores in probe.path if scores["l2"] == probe.l2)
    if is_first_process():
        write_json(folder.probe_json, {"l2": probe.l2, "path": probe.path, "seconds": seconds})
    row = {
        "loss": chosen["train_loss"],
        "accuracy": chosen["train_accuracy"],
        "val_loss": chosen["validation_loss"],
        "val_accuracy": chosen["validation_accuracy"],
        "learning_rate": 0.0,
        "images_per_second": len(experiment.splits["train"]) / seconds,
    }
    return replicate({"kernel": probe.kernel_CK, "bias": probe.bias_K}, experiment.mesh), row


def _features_and_labels(experiment: Experiment, split: str, variables: dict) -> tuple[jax.Array, jax.Array]:
    """Features and labels; labels of the rows that pad the last device are -1."""
    placed = place_features(experiment, split, variables)
    size = len(experiment.splits[split])
    return placed.images_NHWC, jnp.where(jnp.arange(len(placed.labels_N)) < size, placed.labels_N, -1)
