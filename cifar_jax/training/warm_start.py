"""`train.init_from`: a new run that starts from the weights of an earlier run, even with other classes or data."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np

from cifar_jax.errors import DataError, UsageError
from cifar_jax.experiment import Experiment
from cifar_jax.runs.checksums import leaf_checksums
from cifar_jax.runs.json_files import json_checksum
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_network

# These may differ between the two models: they do not affect the parameters, except those of the head.
FREE_ATTRIBUTES = {"num_classes", "dropout", "dtype", "remat", "norm_momentum", "parent", "name"}

log = logging.getLogger(__name__)


def require_run(workdir: str) -> None:
    """Refuses a folder that holds no run.

    Raises:
        UsageError: naming the flag.
    """
    if not RunFolder(Path(workdir)).is_run:
        raise UsageError(f"--config.train.init_from={workdir} has no config.json: name the folder of a run")


def warm_started(experiment: Experiment) -> Experiment:
    """The experiment with the weights and the normalization of the best checkpoint of the run `train.init_from`.

    The head is copied if the classes are the same; otherwise it is newly initialized.

    Raises:
        UsageError: not a run folder, or the model of that run differs (the message names the attributes).
        DataError: no checkpoint is intact.
    """
    workdir = experiment.config.train.init_from
    source, restored = restore_network(workdir, checkpoint="best")
    _require_same_model(source, experiment, workdir)
    variables = jax.tree.map(np.asarray, restored.state.variables)
    same_classes = source.dataset.class_names == experiment.dataset.class_names
    if not same_classes:
        del variables["params"]["head"]
    log.info("starting from %s, step %d: %s", workdir, restored.step, "all weights" if same_classes else "new head")
    image_size = experiment.preprocessing.image_size
    return dataclasses.replace(
        experiment,
        preprocessing=dataclasses.replace(source.preprocessing, image_size=image_size),
        initial_weights=variables,
    )


def description(experiment: Experiment) -> dict | None:
    """The source and checksum of the initial weights, for config.json; None without `train.init_from`."""
    if experiment.initial_weights is None:
        return None
    checksum = json_checksum(leaf_checksums(experiment.initial_weights))
    return {"source": experiment.config.train.init_from, "sha256": checksum}


def require_same(experiment: Experiment, recorded: dict | None) -> None:
    """Raises DataError if the run started from other initial weights."""
    current = description(experiment)
    if (current and current["sha256"]) != (recorded and recorded["sha256"]):
        sources = [weights["source"] if weights else "none" for weights in (current, recorded)]
        raise DataError(
            f"--config.train.init_from: {sources[0]} this run started from other weights ({sources[1]}): "
            "choose another --workdir"
        )


def _require_same_model(source: Experiment, experiment: Experiment, workdir: str) -> None:
    models = source.model, experiment.model
    if type(models[0]) is not type(models[1]):
        raise UsageError(
            f"--config.train.init_from={workdir}: that run has --config.model.name={source.config.model.name}"
        )
    names = [field.name for field in dataclasses.fields(models[0]) if field.name not in FREE_ATTRIBUTES]
    values = {name: [getattr(model, name) for model in models] for name in names}
    changed = [f"{name}: {old} -> {new}" for name, (old, new) in values.items() if old != new]
    if changed:
        raise UsageError(
            f"--config.train.init_from={workdir}: that run has another model ({'; '.join(changed)}): "
            "set the same config.model keys"
        )
