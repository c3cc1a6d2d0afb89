"""`--mode evaluate`: evaluates a checkpoint on one split, or under a shift."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from cifar_jax.data import shifted
from cifar_jax.errors import DataError, UsageError
from cifar_jax.evaluation import suites
from cifar_jax.evaluation.evaluate import evaluate_split, evaluation_directory, fitted_temperature, with_tta
from cifar_jax.experiment import Experiment
from cifar_jax.files.cache import expanded
from cifar_jax.report.figures import run_name
from cifar_jax.runs.checkpoints import Restored
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run, start_devices

log = logging.getLogger(__name__)


def evaluate(
    workdir: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    tta: bool | None = None,
    data: str = "",
    suite: str = "",
) -> dict:
    """Evaluates a checkpoint of a run.

    Args:
        workdir: the run folder.
        split: 'test', 'validation' or 'train'.
        checkpoint: 'best', 'latest' or the number of a step.
        tta: test-time augmentation; None = as in the run's configuration, but not with `suite`.
        data: the new path of the data set, if it was moved; its fingerprint must match the run's. '' = as recorded.
        suite: 'corruptions', computed from the test images; or a folder with the files of CIFAR-10-C, CIFAR-100-C or
            CIFAR-10.1; '' = the images of the split.

    Returns:
        The content of metrics.json; see `evaluation_directory` for its location, and `suites.evaluate_suite` for that
        of a suite, which is in evaluation/SUITE/step_N. In a run folder that cannot be written, it is only returned,
        with a warning.

    Raises:
        UsageError: no such checkpoint or suite, or not a run folder.
        DataError: the data are not those of the run, no checkpoint is intact, or files of the suite are damaged.
    """
    if suite not in ("", "corruptions"):
        shifted.find(expanded(suite))
    if suite and split != "test":
        raise UsageError(f"--suite={suite} is for the test split: remove --split={split}")
    start_devices(workdir)
    experiment, restored = restore_run(workdir, checkpoint=checkpoint, data=data)
    folder = RunFolder(Path(workdir))
    if suite:
        return _evaluate_suite(experiment, restored, folder, suite=suite, tta=bool(tta))
    if tta is None:
        tta = with_tta(experiment.config, split)
    selection = {"step": restored.step, "tta": tta}
    temperature = fitted_temperature(folder, **selection) if split == "test" else None
    evaluation = evaluate_split(experiment, restored.state.variables, split=split, temperature=temperature, **selection)
    directory = evaluation_directory(folder, experiment.config, split=split, **selection)
    with _unless_read_only(directory):
        evaluation.write(folder, directory)
    return evaluation.metrics


def _evaluate_suite(experiment: Experiment, restored: Restored, folder: RunFolder, *, suite: str, tta: bool) -> dict:
    if suite == "corruptions" and experiment.dataset.is_streamed:
        raise UsageError("--suite=corruptions reads all test images at once; data.pipeline=stream does not keep them")
    if suite == "corruptions":
        kind, title, notes = suite, "15 corruptions of the test images", suites.notes(experiment)
        sets = suites.computed(experiment)
    else:
        kind, title, notes = shifted.find(expanded(suite)), f"{shifted.find(expanded(suite))} in {suite}", []
        sets = shifted.read(expanded(suite), experiment.dataset.class_names)
        log.info("labels 0, 1, ... of %s: %s", suite, ", ".join(experiment.dataset.class_names))
    result = {
        "data": experiment.dataset.name,
        "split": "test",
        "suite": title,
        "notes": notes,
        "fingerprint": experiment.splits["test"].fingerprint,
        "checkpoint_step": restored.step,
        "tta": tta,
        **suites.evaluate_suite(experiment, restored.state.variables, sets, tta=tta),
    }
    directory = folder.evaluation_dir(kind.lower()) / f"step_{restored.step}{'_tta' if tta else ''}"
    with _unless_read_only(directory):
        suites.write(directory, result, run=run_name(folder))
    return result


@contextlib.contextmanager
def _unless_read_only(directory: Path) -> Iterator[None]:
    """Turns an error of writing into a warning, such as in the folder of another user."""
    try:
        yield
    except (DataError, OSError) as error:
        log.warning("%s cannot be written (%s): the figures that follow were not kept", directory, error)
