"""What a run that trains requires of its experiment, beyond the configuration alone (`config/rules.py`)."""

import dataclasses
import logging

import jax

from cifar_jax import devices
from cifar_jax.config import recipes
from cifar_jax.errors import UsageError
from cifar_jax.experiment import Experiment
from cifar_jax.training import sharding

log = logging.getLogger(__name__)


def require_trainable(experiment: Experiment) -> None:
    """Checks the validation split, batches, schedule, proxy, class weights and sharding of a run that trains.

    Raises:
        UsageError: naming the key and a fix.
    """
    if experiment.config.optimizer.name == "lbfgs" and "validation" not in experiment.splits:
        raise UsageError(
            "--config.data.validation_fraction=0: optimizer.name=lbfgs chooses the L2 strength on validation images; "
            "raise it, or set --config.optimizer.name=adamw"
        )
    _require_fitting_batch(experiment)
    _require_fitting_schedule(experiment)
    if experiment.config.train.hardest_fraction < 1:
        _require_proxy(experiment)
    if experiment.config.train.class_weights != "none":
        _ = experiment.class_weights
    if experiment.config.mesh.fsdp > 1:
        _require_split_parameters(experiment)


def note_other_devices(experiment: Experiment) -> None:
    """Logs one line if the recipe is sized for other devices than those of the experiment."""
    names = {"cpu": "CPU", "accelerator": "a GPU or TPU"}
    here = "cpu" if devices.platform_of(experiment.mesh) == "cpu" else "accelerator"
    if (intended := experiment.config.mesh.sized_for) not in ("", here):
        fitting = ", ".join(recipes.sized_for(here))
        log.info("note: this recipe is sized for %s; for %s: %s", names[intended], names[here], fitting)


def _require_fitting_batch(experiment: Experiment) -> None:
    batch_size, devices, images = experiment.config.train.batch_size, experiment.mesh.size, experiment.dataset.train
    key = f"--config.train.batch_size={batch_size}"
    if batch_size % devices:
        fix = f"use a multiple of {devices}, or --config.mesh.devices=N"
        raise UsageError(f"{key} does not divide by the {devices} devices: {fix}")
    for name in ("mixup", "cutmix"):
        if experiment.config.augment[name] and (batch_size // devices) % 2:
            fix = f"{key} must be a multiple of {2 * devices} on {devices} devices"
            raise UsageError(f"--config.augment.{name} blends pairs: {fix}")
    if batch_size > len(images):
        raise UsageError(f"{key} is more than the {len(images)} training images: lower it")


def _require_proxy(experiment: Experiment) -> None:
    """It is a smaller network of the kind of the model, see `training/proxy.py`."""
    config, model, devices = experiment.config.train, experiment.model, experiment.mesh.size
    key = f"--config.train.hardest_fraction={config.hardest_fraction}"
    if not {"widths", "convs_per_block"} <= {field.name for field in dataclasses.fields(model)}:
        raise UsageError(f"{key}: a {experiment.config.model.name} has no model.widths to make smaller: set it to 1")
    if not (chosen := round(config.hardest_fraction * config.batch_size)) or chosen % devices:
        problem = f"{chosen} images of a batch of {config.batch_size} do not divide by the {devices} devices"
        raise UsageError(f"{key}: {problem}, change it or train.batch_size")
    for size in {experiment.preprocessing.image_size, *config.image_sizes}:
        model.clone(widths=config.proxy_widths).require_size(size)


def _require_split_parameters(experiment: Experiment) -> None:
    if set(jax.tree.leaves(sharding.split_dimensions(experiment))) == {sharding.WHOLE}:
        mesh = experiment.config.mesh
        problem = f"matches no parameter with a dimension that divides by mesh.fsdp={mesh.fsdp}"
        fix = "--mode inspect lists the layers"
        raise UsageError(f"--config.mesh.fsdp_parameters={mesh.fsdp_parameters!r} {problem}: {fix}")


def _require_fitting_schedule(experiment: Experiment) -> None:
    """Keys in steps; those in epochs are in `config/rules.py`. On the fallback data set the run is shortened."""
    config, steps = experiment.config, experiment.total_steps
    if steps >= 2**31:
        raise UsageError(f"--config.train.epochs={config.train.epochs}: {steps:,} steps, at most 2**31 are possible")
    if experiment.dataset.is_fallback:
        return
    accumulate, schedule = config.optimizer.accumulate_steps, config.schedule
    run = f"of the run: {steps:,} steps, {steps // accumulate:,} updates"
    if accumulate > steps:
        raise UsageError(f"--config.optimizer.accumulate_steps={accumulate}: the first update is after the end {run}")
    if schedule.warmup_steps > steps // accumulate:
        raise UsageError(
            f"--config.schedule.warmup_steps={schedule.warmup_steps}: the warm-up does not end before the end {run}"
        )
    if schedule.decay_steps and schedule.decay_steps[-1] >= steps // accumulate:
        raise UsageError(f"--config.schedule.decay_steps={schedule.decay_steps}: the last is after the end {run}")
