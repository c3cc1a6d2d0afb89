"""`--mode train` with lists of values: a run, or one run per seed, for each combination of them."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.config import sweeps
from cifar_jax.config.validate import with_overrides
from cifar_jax.devices import is_first_process, start
from cifar_jax.modes.train import require_no_run, train_seeds
from cifar_jax.report.sweep import write
from cifar_jax.training.hooks import Hook
from cifar_jax.training.loop import NotFiniteError

log = logging.getLogger(__name__)


def sweep(
    config: ConfigDict, workdir: str | Path, *, values: sweeps.Values, command: str = "", hooks: Sequence[Hook] = ()
) -> dict:
    """Trains `train.seeds` runs for each combination of `values`, and chooses the best by validation accuracy.

    An interrupted sweep resumes: finished runs are not trained again. A combination whose loss does not stay finite
    is reported, and the sweep continues with the next.

    Args:
        config: of all runs, but for the values.
        workdir: created if missing; holds one folder per combination, such as learning_rate_0.1.
        values: by dotted key of numeric keys, such as {"optimizer.learning_rate": [0.05, 0.1]}.
        command: recorded in the config.json of every run.
        hooks: as for `train`.

    Returns:
        The content of WORKDIR/sweep.json: for each of its 'points' the values, the folder, and the accuracy on
        validation with its interval (over the seeds, or the images of a single run); the folder of the 'best'; and of
        this one the accuracy on 'test'.

    Raises:
        UsageError: a value is not valid; raised before training.
        NotFiniteError: the loss of every combination became infinite or NaN.
    """
    combinations = sweeps.combinations(config, values)
    require_no_run(workdir)
    batch_size = math.gcd(*(point.train.batch_size for _, point in combinations))  # the devices must divide them all
    start(with_overrides(config, {"train.batch_size": batch_size}))
    log.info("sweep: %d x %d runs, %s", len(combinations), config.train.seeds, sweeps.describe_programs(values))
    features = None if any(key.startswith("model.") for key in values) else {}  # shared by runs of the same backbone
    points, failure = [], None
    for changes, point in combinations:
        folder, problem = sweeps.folder_name(changes), ""
        log.info("%s", Path(workdir) / folder)
        try:
            train_seeds(point, Path(workdir) / folder, command=command, hooks=hooks, features=features)
        except NotFiniteError as error:
            log.warning("%s", error)
            failure, problem = error, str(error).partition(":")[0]
        points.append({"folder": folder, "changes": changes, "failure": problem})
    if all(point["failure"] for point in points):
        raise failure
    seeds = range(config.train.seed, config.train.seed + config.train.seeds)
    return write(Path(workdir), points, seeds=seeds) if is_first_process() else {}
