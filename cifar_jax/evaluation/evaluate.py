"""Evaluation of one split: metrics, predictions and figures, written to the run folder."""

import functools
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cifar_jax.data import ImageSet, batches
from cifar_jax.devices import is_first_process
from cifar_jax.evaluation.features import classify, place_features
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.experiment import Experiment
from cifar_jax.files.atomic import atomic_path
from cifar_jax.metrics import calibration, classification
from cifar_jax.report import figures
from cifar_jax.runs.run_folder import RunFolder, read_json, write_json

CALIBRATION = ("loss", "loss_interval", "ece", "ece_interval")  # changed by temperature scaling
HEADLINE = ("n", "accuracy", "accuracy_interval", *CALIBRATION)


class SplitEvaluator:
    """One split on the devices with the compiled program that evaluates it, for repeated use."""

    def __init__(self, experiment: Experiment, split: str, *, variables: dict, tta: bool):
        """Places the split on the devices.

        Args:
            variables: params and batch_stats; cached features are computed with them.
            tta: also return the logits with test-time augmentation.
        """
        self.images = experiment.splits[split]
        self._experiment = experiment
        if experiment.config.train.cached_features:
            self._placed = place_features(experiment, split, variables)
            forward = functools.partial(classify, experiment)
        else:
            self._placed = batches.place(self.images, experiment.mesh)
            forward = experiment.logits
        self._predict = compile_predict(experiment.mesh, forward=forward, tta=tta)

    def logits(self, variables: dict) -> dict[str, np.ndarray]:
        """'plain' and, with `tta`, 'tta' logits, float32 (N, K), in the order of the images."""
        size, batch_size = len(self.images), self._experiment.config.evaluation.batch_size
        mesh = self._experiment.mesh
        return predict_split(self._predict, variables, self._placed, size=size, batch_size=batch_size, mesh=mesh)

    def summaries(self, logits: dict[str, np.ndarray]) -> dict[str, dict]:
        """The metrics of each kind of logits, see `classification.summarize`."""
        return {
            name: classification.summarize(
                logits_NK=values, labels_N=self.images.labels_N, class_names=self.images.class_names
            )
            for name, values in logits.items()
        }


def evaluate_split(
    experiment: Experiment,
    variables: dict,
    folder: RunFolder,
    *,
    split: str,
    step: int,
    tta: bool,
    directory: Path,
    temperature: float | None = None,
    with_figures: bool = True,
) -> dict:
    """Evaluates every image of a split once and writes metrics.json, predictions.npz and figures.

    Args:
        variables: params and batch_stats, replicated.
        step: of their checkpoint, recorded in metrics.json.
        tta: whether the main figures are those with test-time augmentation; the others become `without_tta`.
        directory: for the files. Figures of evaluation/test go to figures/ instead.
        temperature: fitted on the validation split of the same checkpoint with the same `tta`. If None, no figures
            with temperature scaling. For the validation split it is fitted here.
        with_figures: draw them, 1.2 s per split.

    Returns:
        The content of metrics.json.
    """
    evaluator = SplitEvaluator(experiment, split, variables=variables, tta=tta)
    logits = evaluator.logits(variables)
    summaries = evaluator.summaries(logits)
    kind = "tta" if tta else "plain"
    metrics = {
        "data": experiment.dataset.name,
        "split": split,
        "fingerprint": evaluator.images.fingerprint,
        "checkpoint_step": step,
        "tta": tta,
        **summaries[kind],
    }
    if tta:
        metrics["without_tta"] = {name: summaries["plain"][name] for name in HEADLINE}
    if split == "validation":
        temperature = calibration.fit_temperature(logits_NK=logits[kind], labels_N=evaluator.images.labels_N)
    if temperature:
        scaled = evaluator.summaries({"scaled": logits[kind] / temperature})["scaled"]
        metrics["temperature_scaled"] = {"temperature": temperature} | {name: scaled[name] for name in CALIBRATION}
    if is_first_process():
        _write(directory, metrics, logits, evaluator.images)
        if with_figures:
            figures_dir = folder.figures_dir if directory == folder.evaluation_dir("test") else directory
            _draw(figures_dir, metrics, logits[kind], evaluator.images, run=figures.run_name(folder))
    return metrics


def _write(directory: Path, metrics: dict, logits: dict[str, np.ndarray], images: ImageSet) -> None:
    write_json(directory / "metrics.json", metrics)
    arrays = {"logits" if kind == "plain" else f"logits_{kind}": values for kind, values in logits.items()}
    predictions_N = logits["tta" if metrics["tta"] else "plain"].argmax(-1).astype(np.int32)
    with atomic_path(directory / "predictions.npz") as temporary:
        np.savez(temporary, labels=images.labels_N, predictions=predictions_N, **arrays)


def _draw(directory: Path, metrics: dict, logits_NK: np.ndarray, images: ImageSet, *, run: str) -> None:
    from cifar_jax.report import image_grids  # here: Matplotlib takes 0.3 s to import

    figures.draw_metrics(metrics, run=run, directory=directory)
    image_grids.mistakes(
        images.images_NHWC,
        images.labels_N,
        calibration.softmax(logits_NK),
        images.class_names,
        title=figures.split_title(metrics, run=run),
        path=directory / "mistakes.png",
    )


def evaluation_directory(folder: RunFolder, config: ConfigDict, *, split: str, step: int, tta: bool) -> Path:
    """Where an evaluation is kept, so that no other checkpoint overwrites the evaluation in results.json.

    Returns:
        evaluation/SPLIT for the evaluation in results.json. For any other, a folder step_N below it; if `tta` is not
        that of the recipe, step_N_tta or step_N_plain.
    """
    directory = folder.evaluation_dir(split)
    if folder.results_json.exists():
        result = read_json(folder.results_json)[split]
        if (result["checkpoint_step"], result["tta"]) == (step, tta):
            return directory
    suffix = "" if tta == with_tta(config, split) else "_tta" if tta else "_plain"
    return directory / f"step_{step}{suffix}"


def with_tta(config: ConfigDict, split: str) -> bool:
    """The default for test-time augmentation: as the recipe says, but not for training images (6 times the cost).

    Never with cached features.
    """
    return config.evaluation.tta and split != "train" and not config.train.cached_features


def fitted_temperature(folder: RunFolder, *, step: int, tta: bool) -> float | None:
    """The temperature in results.json, if it was fitted on this checkpoint with this `tta`."""
    if not folder.results_json.exists():
        return None
    results = read_json(folder.results_json)
    if (results["validation"]["checkpoint_step"], results["validation"]["tta"]) != (step, tta):
        return None
    return results.get("temperature")
