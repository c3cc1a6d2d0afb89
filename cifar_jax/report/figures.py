"""Which figures a run has, with their titles: data set, split, n and run.

What draws them is imported where it is called: Matplotlib takes 0.3 s, and training begins without it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cifar_jax.runs.run_folder import RunFolder, read_json


def run_name(folder: RunFolder) -> str:
    """The name of the run folder, for one seed of several with that of the folder above."""
    path = folder.path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed_") else path.name


def split_title(metrics: Mapping, *, run: str) -> str:
    """The title of a figure of one split.

    Args:
        metrics: what metrics.json holds.
    """
    views = ", test-time augmentation" if metrics["tta"] else ""
    return (
        f"{metrics['data']}, {metrics['split']}, n = {metrics['n']:,}\n{run}: accuracy {metrics['accuracy']:.2%}{views}"
    )


def draw_metrics(metrics: Mapping, *, run: str, directory: Path) -> None:
    """Leaves the figures of one split that need no images: confusion_matrix, per_class and calibration.

    Args:
        metrics: what metrics.json holds.
    """
    from cifar_jax.report import classes, reliability

    title = split_title(metrics, run=run)
    confusion_KK, scores = np.array(metrics["confusion_matrix"]), metrics["per_class"]
    classes.confusion_matrix(confusion_KK, scores["names"], title=title, path=directory / "confusion_matrix.png")
    classes.per_class(scores, title=title, path=directory / "per_class.png")
    reliability.calibration(metrics, title=title, path=directory / "calibration.png")


def draw_history(history: Mapping, results: Mapping, *, run: str, directory: Path) -> None:
    """Leaves curves.

    Args:
        history: what history.json holds.
        results: what results.json holds; of it the data.
    """
    from cifar_jax.report import curves

    data = results["data"]
    sizes = " and ".join(f"{split} n = {data['splits'][split]['n']:,}" for split in ("train", "validation"))
    curves.curves(history, title=f"{data['name']}, {sizes}\n{run}", path=directory / "curves.png")


def redraw(folder: RunFolder) -> None:
    """Draws again what the files of a finished run tell; figures made of its images stay as they are.

    So do those of the test split where another checkpoint was evaluated on it since.
    """
    run, directory = run_name(folder), folder.figures_dir
    draw_history(read_json(folder.history_json), read_json(folder.results_json), run=run, directory=directory)
    evaluated = read_json(folder.evaluation_dir("test") / "metrics.json")
    if folder.matches_results(evaluated):
        draw_metrics(evaluated, run=run, directory=directory)
