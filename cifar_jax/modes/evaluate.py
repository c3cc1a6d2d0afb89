"""`--mode evaluate`: evaluates a checkpoint on one split."""

import logging
from pathlib import Path

from cifar_jax.errors import DataError
from cifar_jax.evaluation.evaluate import evaluate_split, evaluation_directory, fitted_temperature, with_tta
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run, start_devices

log = logging.getLogger(__name__)


def evaluate(
    workdir: str | Path, *, split: str = "test", checkpoint: str = "best", tta: bool | None = None, data: str = ""
) -> dict:
    """Evaluates a checkpoint of a run.

    Args:
        workdir: the run folder.
        split: 'test', 'validation' or 'train'.
        checkpoint: 'best', 'latest' or the number of a step.
        tta: test-time augmentation; None = as in the run's configuration.
        data: the new path of the data set, if it was moved; its fingerprint must match the run's. '' = as recorded.

    Returns:
        The content of metrics.json; see `evaluation_directory` for its location. In a run folder that cannot be
        written, it is only returned, with a warning.

    Raises:
        UsageError: no such checkpoint, or not a run folder.
        DataError: the data are not those of the run, or no checkpoint is intact.
    """
    start_devices(workdir)
    experiment, restored = restore_run(workdir, checkpoint=checkpoint, data=data)
    if tta is None:
        tta = with_tta(experiment.config, split)
    folder = RunFolder(Path(workdir))
    selection = {"step": restored.step, "tta": tta}
    temperature = fitted_temperature(folder, **selection) if split == "test" else None
    evaluation = evaluate_split(experiment, restored.state.variables, split=split, temperature=temperature, **selection)
    directory = evaluation_directory(folder, experiment.config, split=split, **selection)
    try:
        evaluation.write(folder, directory)
    except (DataError, OSError) as error:  # such as the read-only folder of another user
        log.warning("%s cannot be written (%s): the figures that follow were not kept", directory, error)
    return evaluation.metrics
