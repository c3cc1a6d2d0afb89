"""Evaluation under a shift: accuracy and calibration on the corruptions, computed or published, and on CIFAR-10.1."""

import itertools
import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cifar_jax.corruptions.suite import CORRUPTIONS, SEVERITIES, corrupt
from cifar_jax.data import ImageSet, batches
from cifar_jax.devices import is_first_process
from cifar_jax.evaluation.evaluate import CALIBRATION, HEADLINE
from cifar_jax.evaluation.logits import compile_predict, predict_split
from cifar_jax.experiment import Experiment
from cifar_jax.metrics.calibration import fit_temperature
from cifar_jax.metrics.classification import normal_interval, summarize
from cifar_jax.runs.json_files import write_json

log = logging.getLogger(__name__)


def computed(experiment: Experiment) -> Iterator[tuple[str, ImageSet]]:
    """The test images under each corruption, five times, severity 1 first."""
    test = experiment.splits["test"]
    for name, severity in itertools.product(CORRUPTIONS, SEVERITIES):
        images_NHWC = corrupt(test.images_NHWC, name, severity, mesh=experiment.mesh)
        yield name, ImageSet(images_NHWC, test.labels_N, test.class_names)


def notes(experiment: Experiment) -> list[str]:
    """In what the computed corruptions differ from the published ones."""
    size = experiment.splits["test"].images_NHWC.shape[1]
    differing = ["drawn_frost is drawn, not the published photographs: not comparable"]
    if size != 32:
        differing += [f"images of {size} pixels: blurs and flakes keep the size of those for 32"]
    return differing


def evaluate_suite(
    experiment: Experiment,
    variables: dict,
    sets: Iterable[tuple[str, ImageSet]],
    *,
    tta: bool,
) -> dict:
    """Evaluates the test images, and then each set of images once, with a temperature fitted on validation images.

    Without a validation split, there is no temperature: 'temperature' and each 'temperature_scaled' are left out.

    Args:
        variables: params and batch_stats, on the mesh.
        sets: with their names; those of one name are severities. All have the same images under different corruptions.

    Returns:
        `temperature`; `clean`: metrics of the test images; `sets`: for each name, metrics by severity; `severities`:
        mean accuracy over the names with its interval, and mean ECE; `mean`: the same over all sets, and
        `corruption_error`, 1 - accuracy, which is not divided by the errors of a baseline. The interval of a mean is
        for the images of the test split: each counts once, with the mean over its corruptions.
    """
    mesh, batch_size = experiment.mesh, experiment.config.evaluation.batch_size
    predict = compile_predict(mesh, forward=experiment.logits, tta=tta)

    def logits_of(images: ImageSet) -> np.ndarray:
        placed, size = batches.place(images, mesh), len(images)
        logits = predict_split(predict, variables, placed, size=size, batch_size=batch_size, mesh=mesh)
        return logits["tta" if tta else "plain"]

    temperature = None
    if validation := experiment.splits.get("validation"):
        temperature = fit_temperature(logits_NK=logits_of(validation), labels_N=validation.labels_N)

    def evaluated(images: ImageSet) -> tuple[dict, np.ndarray]:
        logits_NK, labels_N = logits_of(images), images.labels_N
        labels = {"labels_N": labels_N, "class_names": images.class_names}
        summary = summarize(logits_NK=logits_NK, **labels)
        metrics = {name: summary[name] for name in HEADLINE}
        if temperature:
            scaled = summarize(logits_NK=logits_NK / temperature, **labels)
            metrics["temperature_scaled"] = {name: scaled[name] for name in CALIBRATION}
        return metrics, logits_NK.argmax(axis=1) == labels_N

    clean, _ = evaluated(experiment.splits["test"])
    metrics, correct = {}, {}
    for name, images in sets:
        of_set, correct_N = evaluated(images)
        metrics.setdefault(name, []).append(of_set)
        correct.setdefault(name, []).append(correct_N)
        if len(metrics[name]) == len(SEVERITIES):
            log.info("%s: accuracy %.1f %%", name, 100 * statistics.fmean(each["accuracy"] for each in metrics[name]))
    correct_CSN = np.array([*correct.values()])
    by_severity = zip(*metrics.values(), strict=True)
    return {
        **({"temperature": temperature} if temperature else {}),
        "clean": clean,
        "sets": metrics,
        "severities": [_mean(each, correct_CSN[:, place]) for place, each in enumerate(by_severity)],
        "mean": _mean([*itertools.chain(*metrics.values())], correct_CSN.reshape(-1, correct_CSN.shape[-1])),
    }


def _mean(metrics: Sequence[dict], correct_SN: np.ndarray) -> dict:
    """Of several sets of the same images."""
    share_N = correct_SN.mean(axis=0)
    accuracy = float(share_N.mean())
    scaled = [each["temperature_scaled"]["ece"] for each in metrics if "temperature_scaled" in each]
    return {
        "n": len(share_N),
        "accuracy": accuracy,
        "accuracy_interval": normal_interval(accuracy, share_N, highest=1.0),
        "corruption_error": 1 - accuracy,
        "ece": statistics.fmean(each["ece"] for each in metrics),
        **({"temperature_scaled": {"ece": statistics.fmean(scaled)}} if scaled else {}),
    }


def write(directory: Path, result: dict, *, run: str) -> None:
    """Writes metrics.json and, of several severities, corruptions.png, in the first process.

    Raises:
        DataError, OSError: a file cannot be written.
    """
    from cifar_jax.report import robustness  # here: Matplotlib takes 0.3 s to import

    if is_first_process():
        write_json(directory / "metrics.json", result)
        if len(result["severities"]) > 1:
            robustness.corruptions(result, run=run, path=directory / "corruptions.png")
        log.info("written: %s", directory)


def describe(result: dict) -> str:
    """A summary for the terminal, up to 80 columns: accuracy by corruption and severity, ECE by severity."""
    clean, mean, severities = result["clean"], result["mean"], result["severities"]
    low, high = (f"{bound:.2%}" for bound in mean["accuracy_interval"])
    views = ", test-time augmentation" if result["tta"] else ""
    lines = [
        f"{result['data']}, n = {mean['n']:,}, step {result['checkpoint_step']:,}{views}",
        f"  {result['suite']}: accuracy {mean['accuracy']:.2%} [{low}, {high}]",
        f"  test images as they are: accuracy {clean['accuracy']:.2%}, ECE {clean['ece']:.4f}",
    ]
    if len(severities) == 1:
        return "\n".join([*lines, f"  ECE {mean['ece']:.4f}"])
    lines += [
        f"  mean corruption error {mean['corruption_error']:.2%}, not divided by a baseline's errors",
        "",
        f"{'accuracy (%) at severity':26}{''.join(f'{number:8}' for number in SEVERITIES)}    mean",
    ]
    rows = {name: [each["accuracy"] for each in by_severity] for name, by_severity in result["sets"].items()}
    rows["mean"] = [each["accuracy"] for each in severities]
    lines += [_row(name, accuracies) for name, accuracies in rows.items()]
    lines += [_row("ECE (%)", [each["ece"] for each in severities])]
    if "temperature" in result:
        scaled = [each["temperature_scaled"]["ece"] for each in severities]
        lines += [_row(f"ECE (%), temperature {result['temperature']:.2f}", scaled)]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _row(name: str, shares: list[float]) -> str:
    cells = [f"{100 * share:8.2f}" for share in (*shares, statistics.fmean(shares))]
    return f"{name:26}{''.join(cells)}"
