"""`--mode train`: one run, or one for each of several seeds."""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax.config.validate import validate
from cifar_jax.devices import is_first_process, start
from cifar_jax.training import loop, seeds


def train(config: ConfigDict, workdir: str | Path, *, command: str = "") -> dict:
    """Trains, or resumes an interrupted run, and evaluates the best checkpoint once on the test split.

    Args:
        config: as `load_config` returns it.
        workdir: the run folder; created if missing.
        command: recorded in config.json and named by the message that says how to resume.

    Returns:
        The content of results.json. With `train.seeds` above 1 the mean over the seeds and its 95 % interval.

    Raises:
        UsageError: a wrong key, value or path.
        DataError: data, weights or a checkpoint that cannot be used.
    """
    validate(config)
    start(config)
    if config.train.seeds == 1:
        return loop.train(config, workdir, command=command)
    results = seeds.train_seeds(config, workdir, command=command)
    if is_first_process():
        from cifar_jax.report import comparison  # here: Matplotlib takes 0.3 s to import

        comparison.write(Path(workdir).absolute())
    return results
