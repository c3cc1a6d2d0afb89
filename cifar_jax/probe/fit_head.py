"""A linear probe as a training run: features of all images, L2 strength chosen on validation, one head."""

import time

import jax
import jax.numpy as jnp

from cifar_jax.devices import is_first_process, replicate
from cifar_jax.evaluation.features import place_features
from cifar_jax.experiment import Experiment
from cifar_jax.probe.logistic_regression import fit_path
from cifar_jax.runs.json_files import write_json
from cifar_jax.runs.run_folder import RunFolder


def fit_head(experiment: Experiment, folder: RunFolder, variables: dict) -> tuple[dict, dict]:
    """Fits the head, see `fit_path`, and writes probe.json: every L2 strength with its scores.

    Args:
        variables: params and batch_stats, replicated.

    Returns:
        The parameters of the head, replicated; and a row of the history, with the scores of the probe that was fitted
        to the training images only.
    """
    train = _features_and_labels(experiment, "train", variables)
    validation = _features_and_labels(experiment, "validation", variables)
    started = time.perf_counter()
    probe = fit_path(*train, *validation, num_classes=experiment.model.num_classes)
    seconds = time.perf_counter() - started
    best = next(scores for scores in probe.path if scores["l2"] == probe.l2)
    if is_first_process():
        write_json(folder.probe_json, {"l2": probe.l2, "path": probe.path, "seconds": seconds})
    row = {
        "loss": best["train_loss"],
        "accuracy": best["train_accuracy"],
        "val_loss": best["validation_loss"],
        "val_accuracy": best["validation_accuracy"],
        "learning_rate": 0.0,
        "images_per_second": len(experiment.splits["train"]) / seconds,
    }
    return replicate({"kernel": probe.kernel_CK, "bias": probe.bias_K}, experiment.mesh), row


def _features_and_labels(experiment: Experiment, split: str, variables: dict) -> tuple[jax.Array, jax.Array]:
    """Features and labels; the labels of padding rows are -1."""
    placed = place_features(experiment, split, variables)
    size = len(experiment.splits[split])
    return placed.images_NHWC, jnp.where(jnp.arange(len(placed.labels_N)) < size, placed.labels_N, -1)
