"""`--mode ablation`: a configuration with mistakes, fixed one at a time; every step is trained with several seeds."""

import logging
import re
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.config.validate import validate, with_fixes, with_overrides
from cifar_jax.devices import is_first_process, start
from cifar_jax.errors import UsageError
from cifar_jax.modes.train import require_no_run, train_seeds
from cifar_jax.report.ablation import AblationStep, write
from cifar_jax.training import results


def ablation(config: ConfigDict, workdir: str | Path, *, command: str = "") -> list[Path]:
    """Trains `train.seeds` runs of each step; writes ablation.json, .md and .png to `workdir` and returns their paths.

    An interrupted ablation resumes: finished runs are not trained again.

    Args:
        config: the first step, with the fixes in `config.ablation`.
        workdir: created if missing; holds one folder per step.
        command: recorded in the config.json of every run.

    Raises:
        UsageError: a fix or the number of seeds is invalid; raised before training.
    """
    validate(config)
    if not config.ablation:
        raise UsageError("--mode ablation requires fixes in config.ablation, as in notebook/notebook_cnn")
    if config.train.seeds < 2:
        raise UsageError("--config.train.seeds=1: an ablation requires at least 2 seeds to estimate the variation")
    steps = ablation_steps(config)
    for _, step_config in steps:
        validate(step_config, for_training=True)
    require_no_run(workdir)
    start(config)
    for step, step_config in steps:
        summary = train_seeds(step_config, Path(workdir) / step.folder, command=command)
        logging.info("%s: %s", step.name, results.describe_results(summary))
    return write(Path(workdir), [step for step, _ in steps]) if is_first_process() else []


def ablation_steps(config: ConfigDict) -> list[tuple[AblationStep, ConfigDict]]:
    """The steps in order with their configurations: the given one, then one more fix per step.

    Raises:
        UsageError: a fix is not valid.
    """
    first = ("as the notebook", {}, with_overrides(config, {"ablation": ()}))
    steps = []
    for number, (name, changes, step_config) in enumerate((first, *with_fixes(config))):
        folder = re.sub(r"\W+", "_", f"{number} {name}".lower()).strip("_")  # such as 3_muon_batches_of_512
        steps.append((AblationStep(name, folder, changes), step_config))
    return steps
