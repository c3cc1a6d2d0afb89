"""Evaluation of one split: metrics, predictions and figures in the run folder."""

import functools

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

CALIBRATION = ("loss", "loss_interval", "ece", "ece_interval")  # what temperature scaling changes
HEADLINE = ("n", "accuracy", "accuracy_interval", *CALIBRATION)


class SplitEvaluator:
    """One split on the devices and the compiled program that evaluates it: called after every epoch, say."""

    def __init__(self, experiment: Experiment, split: str, *, variables: dict, tta: bool):
        """Args: variables: as of `logits`; features of a frozen backbone are computed with them, if any are wanted."""
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
        """'plain' and, where asked for, 'tta' logits (N, K) of every image, each once, in order."""
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
    temperature: float | None = None,
    with_figures: bool = True,
) -> dict:
    """Evaluates one split, every image once, and leaves evaluation/SPLIT/ in the run folder.

    Args:
        variables: params and batch_stats, replicated.
        step: of the checkpoint they are from, to be recorded.
        tta: the headline figures are those of the `mirrored_and_shifted` views; the plain ones stand beside them.
        temperature: as fitted on the validation split of this checkpoint with this `tta`; of that split it is fitted
            here. None = no figures of temperature scaling.
        with_figures: draw them too, 1.2 s a split.

    Returns:
        What stands in metrics.json.
    """
    evaluator = SplitEvaluator(experiment, split, variables=variables, tta=tta)
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
    headline_NC = logits["tta" if tta else "plain"]
    if split == "validation":
        temperature = calibration.fit_temperature(logits_NK=headline_NC, labels_N=evaluator.images.labels_N)
    if temperature:
        scaled = evaluator.summaries({"scaled": headline_NC / temperature})["scaled"]
        found["temperature_scaled"] = {"temperature": temperature} | {name: scaled[name] for name in CALIBRATION}
    if is_first_process():
        _write(folder, found, logits, evaluator.images)
        if with_figures:
            _draw(folder, found, logits, evaluator.images)
    return found


def _write(folder: RunFolder, found: dict, logits: dict[str, np.ndarray], images: ImageSet) -> None:
    """metrics.json and predictions.npz."""
    directory = folder.evaluation_dir(found["split"])
    write_json(directory / "metrics.json", found)
    headline_NC = logits["tta" if found["tta"] else "plain"]
    predictions_N = headline_NC.argmax(-1).astype(np.int32)
    with atomic_path(directory / "predictions.npz") as temporary:
        np.savez(temporary, labels=images.labels_N, predictions=predictions_N, **_named_logits(logits))


def _draw(folder: RunFolder, found: dict, logits: dict[str, np.ndarray], images: ImageSet) -> None:
    """The figures of a split, beside its metrics.json; those of the evaluation in results.json go into figures/."""
    from cifar_jax.report import image_grids  # here: Matplotlib takes 0.3 s to import

    of_the_run = found["split"] == "test" and folder.matches_results(found)
    beside = folder.evaluation_dir(found["split"])
    for stale in beside.glob("*.png"):  # of another checkpoint, perhaps, that metrics.json no longer tells of
        stale.unlink()
    directory = folder.figures_dir if of_the_run else beside
    run = figures.run_name(folder)
    figures.draw_metrics(found, run=run, directory=directory)
    image_grids.mistakes(
        images.images_NHWC,
        images.labels_N,
        calibration.softmax(logits["tta" if found["tta"] else "plain"]),
        images.class_names,
        title=figures.split_title(found, run=run),
        path=directory / "mistakes.png",
    )


def _named_logits(logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits" if name == "plain" else f"logits_{name}": values for name, values in logits.items()}


def with_tta(config: ConfigDict, split: str) -> bool:
    """Whether a split is evaluated with test-time augmentation if nobody says; training images are not (6 x cost).

    Nor are images whose features are cached.
    """
    return config.evaluation.tta and split != "train" and not config.train.cached_features


def fitted_temperature(folder: RunFolder, *, step: int, tta: bool) -> float | None:
    """The temperature in results.json, if it was fitted on this checkpoint and with this `tta`."""
    if not folder.results_json.exists():
        return None
    fitted = read_json(folder.results_json)
    if (fitted["validation"]["checkpoint_step"], fitted["validation"]["tta"]) != (step, tta):
        return None
    return fitted.get("temperature")
