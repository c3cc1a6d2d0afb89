"""The gap ledger: a configuration with its mistakes, mended one at a time, each rung trained with several seeds."""

import logging
import re
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.errors import UsageError
from cifar_jax.mesh import is_first_process
from cifar_jax.report import ledger as pages
from cifar_jax.runs import config as run_config
from cifar_jax.training import seeds


def run(config: ConfigDict, workdir: str | Path, *, command: str = "") -> list[Path]:
    """Trains `train.seeds` runs of every rung, and leaves ledger.json, .md and .png in `workdir`.

    Interrupted, it goes on where it was: a rung that is finished is not trained again.

    Args:
        config: the first rung, with `config.repairs`.

    Returns:
        The files.

    Raises:
        UsageError: before anything is trained, where a repair or the number of seeds does not make sense.
    """
    if not config.repairs:
        raise UsageError("--mode ledger needs a recipe with repairs, e.g. configs/notebook/notebook_cnn.py")
    if config.train.seeds < 2:
        raise UsageError("--config.train.seeds=1: a ledger needs 2 at least, to tell a gain from chance")
    climb = rungs(config)
    for _, one in climb:
        run_config.validate(one)
    folders = [f"{number}_{_slug(name)}" for number, (name, _) in enumerate(climb)]
    for (name, one), folder in zip(climb, folders, strict=True):
        found = seeds.train_seeds(one, Path(workdir) / folder, command=command)
        logging.info("%s: %s", name, seeds.describe(found))
    if not is_first_process():
        return []
    changes = [{}, *(dict(changed) for _, changed in config.repairs)]
    return pages.write(
        Path(workdir),
        [pages.Rung(name, folder, changed) for (name, _), folder, changed in zip(climb, folders, changes, strict=True)],
    )


def rungs(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """What was mended, with the configuration so far: first as it is, then with one repair more each.

    Raises:
        UsageError: a repair names a key that does not exist, or gives it a value of another type.
    """
    climb = [("as the notebook", _with_changes(config, ()))]
    for name, changes in config.repairs:
        climb.append((name, _with_changes(climb[-1][1], changes)))
    return climb


def _with_changes(config: ConfigDict, changes) -> ConfigDict:
    with config.unlocked():
        changed = config.copy_and_resolve_references()
    changed.repairs = ()  # a rung is a run like any other
    for key, value in changes:
        try:
            run_config.require_known(key, changed)
            changed.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise UsageError(f"config.repairs: {key}={value!r}: {error}") from error
    return changed


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")
