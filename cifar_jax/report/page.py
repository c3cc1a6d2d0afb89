"""report.html of one run: everything in its folder on one page."""

from collections.abc import Iterator
from pathlib import Path

from cifar_jax.config.validate import flatten
from cifar_jax.report.figures import run_name
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.run_folder import RunFolder, read_json

FIGURES = {  # by section, in order, each with what it shows
    "Training": {
        "curves": "Loss, accuracy, learning rate and speed. In training, loss (with label smoothing) and accuracy are "
        "means over the epoch on augmented images: they may look worse than in validation, which is measured on "
        "plain images at the end of the epoch.",
    },
    "Test images": {
        "per_class": "Precision, recall and F1 of each class, weakest first.",
        "confusion_matrix": "True classes in rows, predicted classes in columns.",
        "mistakes": "The most confident mistakes and the least certain hits.",
        "calibration": "Whether a confidence of 80 % is right in 80 % of the cases. ECE is the mean gap between "
        "confidence and accuracy.",
    },
    "Data": {
        "samples": "The first training images of each class.",
        "label_distribution": "Images of each class and split.",
        "augmentation": "Training images as they are stored, and as the network saw them in its first epochs.",
    },
}


def write(folder: RunFolder) -> Path:
    """Leaves report.html of a finished run, made of what its folder holds.

    Returns:
        The file: self-contained HTML without scripts.

    Raises:
        DataError: results.json or another file of the folder is missing or damaged.
    """
    recorded = read_json(folder.config_json)
    write_page(
        folder.report_html,
        "run.html",
        name=run_name(folder),
        command=recorded["command"],
        config=flatten(recorded["config"]),
        results=read_json(folder.results_json),
        architecture=read_json(folder.architecture_json),
        sections={section: list(_inlined(folder, shown)) for section, shown in FIGURES.items()},
    )
    return folder.report_html


def _inlined(folder: RunFolder, captions: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Image and caption of each figure that the folder has."""
    for name, caption in captions.items():
        path = folder.figures_dir / f"{name}.png"
        if path.exists():
            yield inlined(path, alt=caption), caption
