"""The gap ledger: a configuration with its mistakes, mended one at a time, each rung trained with several seeds."""

import logging
import re
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.config.validate import validate, with_overrides
from cifar_jax.devices import is_first_process, start
from cifar_jax.errors import UsageError
from cifar_jax.modes.train import train_seeds
from cifar_jax.report.ablation import Rung, write
from cifar_jax.training import results


def ablation(config: ConfigDict, workdir: str | Path, *, command: str = "") -> list[Path]:
    """Trains `train.seeds` runs of every rung, and leaves ledger.json, .md and .png in `workdir`.

    Interrupted, it goes on where it was: a rung that is finished is not trained again.

    Args:
        config: the first rung, with `config.ablation`.

    Returns:
        The files.

    Raises:
        UsageError: before anything is trained, where a repair or the number of seeds does not make sense.
    """
    validate(config)
    if not config.ablation:
        raise UsageError("--mode ablation requires fixes in config.ablation, as in notebook/notebook_cnn")
    if config.train.seeds < 2:
        raise UsageError("--config.train.seeds=1: a ledger needs 2 at least, to tell a gain from chance")
    climb = rungs(config)
    for _, one in climb:
        validate(one)
    start(config)
    for rung, one in climb:
        found = train_seeds(one, Path(workdir) / rung.folder, command=command)
        logging.info("%s: %s", rung.name, results.describe_results(found))
    return write(Path(workdir), [rung for rung, _ in climb]) if is_first_process() else []


def rungs(config: ConfigDict) -> list[tuple[Rung, ConfigDict]]:
    """The rungs from the bottom up: the configuration as it is, and then with one repair more each.

    Raises:
        UsageError: a repair names a key that does not exist, or gives it a value of another type.
    """
    climb = []
    for number, (name, changes) in enumerate((("as the notebook", ()), *config.ablation)):
        config = with_overrides(config, {**dict(changes), "ablation": ()})  # each step is an ordinary run
        climb.append((Rung(name, f"{number}_{_slug(name)}", dict(changes)), config))
    return climb


def _slug(name: str) -> str:
    """'Muon, batches of 512' as 'muon_batches_of_512': part of a folder's name."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")
