"""Evaluation of a run's checkpoint: `train` ends with it, `--mode evaluate` is nothing else."""

import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import experiment as experiments
from cifar_jax.data import batches
from cifar_jax.errors import UsageError
from cifar_jax.evaluation import metrics
from cifar_jax.evaluation.predict import compile_predict, predict_split
from cifar_jax.experiment import Experiment
from cifar_jax.mesh import is_first_process
from cifar_jax.report import figures
from cifar_jax.runs.checkpoints import Checkpoints, Restored
from cifar_jax.runs.folder import RunFolder, read_json, write_json
from cifar_jax.training.state import abstract_state

HEADLINE = ("n", "accuracy", "accuracy_interval", "loss", "loss_interval", "ece", "ece_interval")


class SplitEvaluator:
    """One split on the devices and the compiled program that evaluates it: called after every epoch, say."""

    def __init__(self, experiment: Experiment, split: str, *, tta: bool):
        self.images = experiment.splits[split]
        self._experiment = experiment
        self._placed = batches.place(self.images, experiment.mesh)
        self._predict = compile_predict(
            experiment.mesh, model=experiment.model, prepare=experiment.preprocessing, tta=tta
        )

    def logits(self, variables: dict) -> dict[str, np.ndarray]:
        """'plain' and, where asked for, 'tta' logits (N, K) of every picture, each once, in order."""
        return predict_split(
            self._predict,
            variables,
            self._placed,
            size=len(self.images),
            batch_size=self._experiment.config.evaluation.batch_size,
            mesh=self._experiment.mesh,
        )

    def summaries(self, logits: dict[str, np.ndarray]) -> dict[str, dict]:
        """Accuracy, loss and all other figures of each kind of logits."""
        return {
            name: metrics.summarise(
                logits_NC=values, labels_N=self.images.labels_N, class_names=self.images.class_names
            )
            for name, values in logits.items()
        }


def evaluate_split(
    experiment: Experiment, variables: dict, folder: RunFolder, *, split: str, step: int, tta: bool
) -> dict:
    """Evaluates one split, every picture once, and leaves evaluation/SPLIT/ in the run folder.

    Args:
        variables: params and batch_stats, replicated.
        step: of the checkpoint they are from, to be recorded.
        tta: the headline figures are those of the `mirrored_and_shifted` views; the plain ones stand beside them.

    Returns:
        What stands in metrics.json.
    """
    evaluator = SplitEvaluator(experiment, split, tta=tta)
    logits = evaluator.logits(variables)
    summaries = evaluator.summaries(logits)
    found = {
        "data": experiment.dataset.name,
        "split": split,
        "fingerprint": evaluator.images.fingerprint,
        "checkpoint_step": step,
        "tta": tta,
        **summaries["tta" if tta else "plain"],
    }
    if tta:
        found["without_tta"] = {name: summaries["plain"][name] for name in HEADLINE}
    if is_first_process():
        _write(folder, split, found, logits, evaluator.images.labels_N)
    return found


def _write(folder: RunFolder, split: str, found: dict, logits: dict[str, np.ndarray], labels_N: np.ndarray) -> None:
    """metrics.json, predictions.npz and, for the test split, the confusion matrix."""
    directory = folder.evaluation_dir(split)
    write_json(directory / "metrics.json", found)
    headline_NC = logits["tta" if found["tta"] else "plain"]
    temporary = directory / f".predictions.{os.getpid()}.npz"
    np.savez(temporary, labels=labels_N, predictions=headline_NC.argmax(-1).astype(np.int32), **_named_logits(logits))
    os.replace(temporary, directory / "predictions.npz")
    title = f"{found['data']}, {split}, n = {found['n']:,}\n{folder.path.name}: accuracy {found['accuracy']:.2%}"
    target = folder.figures_dir if split == "test" else directory
    names = found["per_class"]["names"]
    figures.confusion_matrix(
        np.array(found["confusion_matrix"]), names, title=title, path=target / "confusion_matrix.png"
    )


def _named_logits(logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits" if name == "plain" else f"logits_{name}": values for name, values in logits.items()}


def with_tta(config: ConfigDict, split: str) -> bool:
    """Whether a split is evaluated with test-time augmentation if nobody says; training pictures are not (6 x cost)."""
    return config.evaluation.tta and split != "train"


def restore_run(workdir: str | Path, *, checkpoint: str) -> tuple[Experiment, Restored]:
    """A finished or interrupted run: its configuration, data and the state of one checkpoint.

    Args:
        workdir: the run folder; all else is found there.
        checkpoint: 'best', 'latest' or the number of a step.

    Raises:
        UsageError: no such checkpoint, or not a run folder.
        DataError: the data are not those of the run, or no checkpoint is whole.
    """
    folder = RunFolder(Path(workdir))
    if not folder.config_json.exists():
        seeds = sorted(path.parent.name for path in folder.path.glob("seed_*/config.json"))
        hint = f"choose one of its runs: {', '.join(seeds)}" if seeds else "is it the folder of a run?"
        raise UsageError(f"--workdir={folder.path} has no config.json: {hint}")
    recorded = read_json(folder.config_json)
    experiment = experiments.rebuild(recorded)
    abstract = abstract_state(experiment)
    checkpoints = Checkpoints(folder.checkpoints_dir, keep=experiment.config.checkpoint.keep)
    if checkpoint == "best":
        restored = checkpoints.restore_best(abstract)
    elif checkpoint == "latest":
        restored = checkpoints.restore_latest(abstract)
    elif checkpoint.isdecimal():
        restored = checkpoints.restore(int(checkpoint), abstract)
    else:
        raise UsageError(f"--checkpoint={checkpoint}: must be best, latest or the number of a step")
    if restored is None:
        raise UsageError(f"{folder.checkpoints_dir} holds no checkpoint yet: train first, or wait for an epoch's end")
    return experiment, restored


def evaluate_run(workdir: str | Path, *, split: str, checkpoint: str, tta: bool | None) -> dict:
    """Evaluates a run from its folder alone.

    Args:
        workdir: the run folder.
        split: 'test', 'validation' or 'train'.
        checkpoint: 'best', 'latest' or the number of a step.
        tta: test-time augmentation; None = as the run's configuration says.

    Returns:
        What stands in evaluation/SPLIT/metrics.json.
    """
    experiment, restored = restore_run(workdir, checkpoint=checkpoint)
    if tta is None:
        tta = with_tta(experiment.config, split)
    folder = RunFolder(Path(workdir))
    return evaluate_split(experiment, restored.state.variables, folder, split=split, step=restored.step, tta=tta)
