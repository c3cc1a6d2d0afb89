"""Evaluation of one split: metrics, predictions and figures, written to the run folder."""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cifar_jax.data import ImageSet, batches
from cifar_jax.devices import is_first_process
from cifar_jax.errors import DataError, UsageError
from cifar_jax.evaluation.features import classify, place_features
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.experiment import Experiment
from cifar_jax.metrics import calibration, classification
from cifar_jax.report import figures
from cifar_jax.runs.json_files import warn_once, write_json
from cifar_jax.runs.predictions import write_predictions
from cifar_jax.runs.run_folder import RunFolder

CALIBRATION = ("loss", "loss_interval", "ece", "ece_interval")  # changed by temperature scaling
HEADLINE = ("n", "accuracy", "accuracy_interval", *CALIBRATION)


class SplitEvaluator:
    """One split on the devices with the compiled program that evaluates it, for repeated use."""

    def __init__(self, experiment: Experiment, split: str, *, variables: dict, tta: bool):
        """Places the split on the devices; `variables` (params and batch_stats) are for cached features."""
        self.images = experiment.splits[split]
        self._settings = {"batch_size": experiment.config.evaluation.batch_size, "mesh": experiment.mesh}
        if experiment.config.train.cached_features and not tta:  # the views of an image have no cached features
            self._placed = place_features(experiment, split, variables)
            forward = functools.partial(classify, experiment)
        else:
            self._placed = batches.place(self.images, experiment.mesh)
            forward = experiment.logits
        self._predict = compile_predict(experiment.mesh, forward=forward, tta=tta)

    def logits(self, variables: dict) -> dict[str, np.ndarray]:
        """'plain' and, with `tta`, 'tta' logits, float32 (N, K), in the order of the images."""
        return predict_split(self._predict, variables, self._placed, size=len(self.images), **self._settings)

    def summaries(self, logits: dict[str, np.ndarray]) -> dict[str, dict]:
        """The metrics of each kind of logits, see `classification.summarize`."""
        split = {"labels_N": self.images.labels_N, "class_names": self.images.class_names}
        return {kind: classification.summarize(logits_NK=values_NK, **split) for kind, values_NK in logits.items()}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluated split: the content of metrics.json, and what its other files are made of."""

    metrics: dict
    images: ImageSet
    logits: dict[str, np.ndarray]  # 'plain' and, with test-time augmentation, 'tta', float32 (N, K)

    def write(self, folder: RunFolder, directory: Path, *, with_figures: bool = True) -> None:
        """Writes metrics.json, predictions.npz and figures to `directory`, in the first process.

        Args:
            folder: of the run; the figures of its evaluation/test go to figures/ instead.
            with_figures: takes 1.2 s per split.

        Raises:
            DataError, OSError: a file cannot be written.
        """
        if not is_first_process():
            return
        logits_NK = self.logits["tta" if self.metrics["tta"] else "plain"]
        write_json(directory / "metrics.json", self.metrics)
        write_predictions(
            directory / "predictions.npz",
            labels_N=self.images.labels_N,
            predictions_N=logits_NK.argmax(-1).astype(np.int32),
            **{"logits" if name == "plain" else f"logits_{name}": values for name, values in self.logits.items()},
        )
        if with_figures:
            figures_dir = folder.figures_dir if directory == folder.evaluation_dir("test") else directory
            _draw(figures_dir, self.metrics, logits_NK, self.images, run=figures.run_name(folder))


def evaluate_split(
    experiment: Experiment, variables: dict, *, split: str, step: int, tta: bool, temperature: float | None = None
) -> Evaluation:
    """Evaluates every image of a split once; writes nothing.

    Args:
        variables: params and batch_stats, on the mesh.
        step: of their checkpoint, recorded in metrics.json.
        tta: use test-time augmentation; the headline metrics without it become `without_tta`.
        temperature: fitted on the validation split of the same checkpoint with the same `tta`; None = no metrics with
            temperature scaling. For the validation split it is fitted here.

    Raises:
        UsageError: there is no such split.
    """
    if split not in experiment.splits:
        raise UsageError(f"--split={split}: this run has none (data.validation_fraction=0); use test or train")
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
    return Evaluation(metrics, evaluator.images, logits)


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
    """The folder of an evaluation: evaluation/SPLIT for the one in results.json, so that no other overwrites it.

    For any other checkpoint, step_N below it; for another `tta` than that of the recipe, step_N_tta or step_N_plain.
    """
    directory = folder.evaluation_dir(split)
    if _final_results(folder, split, step=step, tta=tta):
        return directory
    suffix = "" if tta == with_tta(config, split) else "_tta" if tta else "_plain"
    return directory / f"step_{step}{suffix}"


def with_tta(config: ConfigDict, split: str) -> bool:
    """Test-time augmentation as configured, but not for the train split (6 times the cost) or with cached features."""
    return config.evaluation.tta and split != "train" and not config.train.cached_features


def fitted_temperature(folder: RunFolder, *, step: int, tta: bool) -> float | None:
    """The temperature in results.json, if it was fitted on this checkpoint with this `tta`."""
    return _final_results(folder, "validation", step=step, tta=tta).get("temperature")


def _final_results(folder: RunFolder, split: str, *, step: int, tta: bool) -> dict:
    """The content of results.json if it evaluates `split` with this checkpoint and `tta`; else empty."""
    if not os.path.lexists(folder.results_json):
        return {}
    try:
        results = folder.results()
    except DataError as error:
        warn_once(f"{error}; until then, its temperature is not used")
        return {}
    metrics = results.get(split) or {}  # no validation split
    return results if (metrics.get("checkpoint_step"), metrics.get("tta")) == (step, tta) else {}
