"""`--mode train`: one run, or one run per seed."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import experiment as experiments
from cifar_jax.config.validate import to_json, validate
from cifar_jax.devices import is_first_process, start
from cifar_jax.errors import UsageError
from cifar_jax.metrics.classification import mean_interval
from cifar_jax.report import page
from cifar_jax.report.finished_runs import comparable_accuracy
from cifar_jax.runs.json_files import plain, write_json
from cifar_jax.runs.metadata import steps
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training import input_check, requirements, warm_start
from cifar_jax.training.hooks import Hook
from cifar_jax.training.loop import Trainer
from cifar_jax.training.restore import require_same_backbone, with_recorded_data

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: str | Path, *, command: str = "", hooks: Sequence[Hook] = ()) -> dict:
    """Starts or resumes a run, and evaluates the best checkpoint once on the test split.

    Args:
        config: from `load_config`.
        workdir: the run folder; created if missing. If `train.seeds` is above 1, it holds one folder per seed.
        command: recorded in config.json, and shown if the run is interrupted.
        hooks: called by the training loop, in addition to progress and TensorBoard.

    Returns:
        The content of results.json; if `train.seeds` is above 1, see `train_seeds`.

    Raises:
        UsageError, DataError: see `cifar_jax.errors`.
        NotFiniteError: the loss is not finite; earlier checkpoints are kept.
        Interrupted: after SIGINT or SIGTERM; the state is saved.
    """
    validate(config, for_training=True)
    start(config)
    results = train_seeds(config, workdir, command=command, hooks=hooks)
    if is_first_process() and config.train.seeds > 1:
        from cifar_jax.report import comparison  # here: Matplotlib takes 0.3 s to import

        comparison.write(Path(workdir).absolute())
    return results


def train_seeds(
    config: ConfigDict,
    workdir: str | Path,
    *,
    command: str = "",
    hooks: Sequence[Hook] = (),
    features: dict[str, np.ndarray] | None = None,
) -> dict:
    """Trains `train.seeds` runs in WORKDIR/seed_N, or one in WORKDIR; finished runs are not trained again.

    The runs are sequential: with `vmap` over seeds, convolutions become grouped ones, which are several times slower.
    For arguments and errors see `train_run`.

    Returns:
        The content of WORKDIR/results.json; of several seeds for each split the accuracies, their mean and Student's
        95 % interval.
    """
    features = {} if features is None else features
    first, number = config.train.seed, config.train.seeds
    if number == 1:
        return train_run(config, workdir, command=command, hooks=hooks, features=features)
    require_no_run(workdir)
    runs = []
    for seed in range(first, first + number):
        with config.unlocked():
            run_config = config.copy_and_resolve_references()
        run_config.train.update(seed=seed, seeds=1)
        runs.append(
            train_run(run_config, Path(workdir) / f"seed_{seed}", command=command, hooks=hooks, features=features)
        )
    results = {"seeds": list(range(first, first + number)), "data": runs[0]["data"]}
    for split in ("validation", "test") if "validation" in runs[0] else ("test",):
        accuracies = [comparable_accuracy(run[split]) for run in runs]
        mean, low, high = mean_interval(accuracies, bounds=(0, 1))
        results[split] = {
            "n": runs[0][split]["n"],
            "runs": number,
            "accuracies": accuracies,
            "accuracy": mean,
            "accuracy_interval": [low, high],
            "tta": runs[0][split]["tta"],
        }
    if is_first_process():
        write_json(Path(workdir) / "results.json", results)
    return results


def require_no_run(workdir: str | Path) -> None:
    """Raises UsageError if a folder for several runs holds the files of a single run."""
    if RunFolder(Path(workdir)).is_run:
        raise UsageError(f"--workdir={workdir} holds a single run: choose another folder for several runs")


def train_run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    command: str = "",
    allow_fallback: bool = True,
    hooks: Sequence[Hook] = (),
    features: dict[str, np.ndarray] | None = None,
) -> dict:
    """One run, after the devices have been started; arguments and errors as for `train`.

    Args:
        allow_fallback: train on drawn shapes if the data cannot be downloaded (never with several processes).
        features: those of the frozen backbone, shared by runs on the same data and model; filled by the first.
    """
    validate(config, for_training=True)
    folder = RunFolder(Path(workdir))
    folder.require_writable()
    recorded = folder.recorded() if folder.is_run else None
    if recorded:
        config = _with_recorded_pipeline(config, recorded)
        _require_same_configuration(config, folder, recorded)
    if config.train.init_from:
        warm_start.require_run(config.train.init_from)
    experiment = experiments.build(config, allow_fallback=allow_fallback and jax.process_count() == 1)
    experiment = dataclasses.replace(experiment, features={} if features is None else features)
    requirements.require_trainable(experiment)
    requirements.note_other_devices(experiment)
    if "validation" not in experiment.splits:
        log.info("no validation split: the last epoch is evaluated, and no temperature is fitted")
    if config.train.class_weights != "none":
        names, weights_K = experiment.dataset.class_names, experiment.class_weights
        low, high = weights_K.argmin(), weights_K.argmax()
        log.info("class weights: %.3g (%s) to %.3g (%s)", weights_K[low], names[low], weights_K[high], names[high])
    if config.train.init_from:
        experiment = warm_start.warm_started(experiment)
    if experiment.backbone and config.model.check_input and not recorded:
        input_check.require_right_scale(experiment)
    # Only the first process writes; the others read what it wrote before they started.
    with folder.lock() if is_first_process() else contextlib.nullcontext():
        if folder.is_run:
            recorded = folder.recorded()
            experiment = with_recorded_data(experiment, recorded["data"], key="--config.data.dir")
            require_same_backbone(experiment, recorded["backbone"])
            warm_start.require_same(experiment, recorded["initial_weights"])
        record = {
            "config": _with_place_of_data(to_json(experiment.config), experiment.dataset.source),
            "command": command,
            "data": experiment.data_description,
            "backbone": plain(experiment.backbone and experiment.backbone.description),
            "initial_weights": warm_start.description(experiment),
        }
        if is_first_process():
            folder.claim(record)
        return _finished(folder) or Trainer(experiment, folder, record=record, hooks=hooks).fit()


def _finished(folder: RunFolder) -> dict | None:
    """The results of a finished run; None where a file is missing or damaged that its checkpoints can replace.

    Raises:
        DataError: results.json is damaged and there is no checkpoint.
    """
    if not os.path.lexists(folder.results_json):
        return None
    damages, has_checkpoints = folder.damages(), bool(steps(folder.checkpoints_dir))
    for damage in damages:
        log.warning("%s: %s", damage, "written again" if has_checkpoints else "no checkpoint to write it again from")
    if damages and has_checkpoints:
        return None
    results = folder.results()
    log.info("%s: already finished", folder.path)
    if not folder.report_html.exists() and is_first_process():  # stopped while it was written
        page.write(folder)
    return results


def _with_place_of_data(config: dict, source: str) -> dict:
    """The plain configuration with the absolute path of the data, so that other modes find them from any directory."""
    return config | {"data": config["data"] | {"dir": source}} if os.path.isabs(source) else config


def _with_recorded_pipeline(config: ConfigDict, recorded: dict) -> ConfigDict:
    """With the choice that data.pipeline=auto made at the start of the run: the free memory may be another now."""
    if config.data.pipeline == "auto":
        config = config.copy_and_resolve_references()
        config.data.pipeline = recorded["config"]["data"]["pipeline"]
    return config


def _require_same_configuration(config: ConfigDict, folder: RunFolder, recorded: dict) -> None:
    """Raises UsageError if the folder belongs to another configuration; called before the data are read."""
    requested = to_json(config)
    if recorded["data"]["is_fallback"]:  # recorded with fewer epochs than configured
        requested["train"]["epochs"] = min(requested["train"]["epochs"], experiments.FALLBACK_EPOCHS)
    folder.require_same(requested)
