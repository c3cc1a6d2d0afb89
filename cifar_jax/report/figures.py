"""The figures of a run with their titles: data set, split, n and run.

The functions import the drawing modules, because Matplotlib takes 0.3 s to import and training starts without it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cifar_jax.runs.run_folder import RunFolder


def run_name(folder: RunFolder) -> str:
    """The name of the run folder; for one of several seeds with its parent, such as 'cnn/seed_0'."""
    path = folder.path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed_") else path.name


def split_title(metrics: Mapping, *, run: str) -> str:
    """The title of a figure of one split, from the content of metrics.json."""
    views = ", test-time augmentation" if metrics["tta"] else ""
    data = f"{metrics['data']}, {metrics['split']}, n = {metrics['n']:,}"
    return f"{data}\n{run}: accuracy {metrics['accuracy']:.2%}{views}"


def draw_metrics(metrics: Mapping, *, run: str, directory: Path) -> None:
    """Draws the figures that need only metrics.json: confusion_matrix, per_class and calibration."""
    from cifar_jax.report import classes, reliability

    title = split_title(metrics, run=run)
    confusion_KK, scores = np.array(metrics["confusion_matrix"]), metrics["per_class"]
    classes.confusion_matrix(confusion_KK, scores["names"], title=title, path=directory / "confusion_matrix.png")
    classes.per_class(scores, title=title, path=directory / "per_class.png")
    reliability.calibration(metrics, title=title, path=directory / "calibration.png")


def draw_history(history: Mapping, results: Mapping, *, run: str, directory: Path) -> None:
    """Draws curves.png from the content of history.json and, for the title, results.json."""
    from cifar_jax.report import curves

    data = results["data"]
    splits = {split: data["splits"].get(split) for split in ("train", "validation")}
    sizes = " and ".join(f"{name} n = {split['n']:,}" for name, split in splits.items() if split)
    curves.curves(history, title=f"{data['name']}, {sizes}\n{run}", path=directory / "curves.png")


def redraw(folder: RunFolder) -> None:
    """Redraws the figures of a finished run that need no images, from its JSON files."""
    run, directory = run_name(folder), folder.figures_dir
    draw_history(folder.history(), folder.results(), run=run, directory=directory)
    draw_metrics(folder.metrics("test"), run=run, directory=directory)
