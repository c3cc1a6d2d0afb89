"""report.html of one run: results, figures, architecture and configuration on one page."""

import logging
from pathlib import Path

from markupsafe import Markup

from cifar_jax.config.validate import flatten
from cifar_jax.errors import one_line
from cifar_jax.report.figures import run_name
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

FIGURES = {  # by section, in order, with captions
    "Training": {
        "curves": "Training loss and accuracy are means over the epoch, with augmentation and label smoothing if the "
        "recipe has them. They can be worse than those of a validation split, measured without both at its end.",
    },
    "Test images": {
        "per_class": "Precision, recall and F1 of each class, weakest first.",
        "calibration": "For a calibrated model, predictions with a confidence of 80 % are right in 80 % of the cases. "
        "ECE is the mean gap between confidence and accuracy.",
        "confusion_matrix": "True classes in rows, predicted classes in columns.",
        "mistakes": "The most confident mistakes and the least confident correct predictions.",
    },
    "Data": {
        "samples": "The first training images of each class.",
        "label_distribution": "Number of images per class and split.",
        "augmentation": "Training images as stored, and as the model saw them in the first epochs.",
    },
}

CORRUPTIONS = (
    "Accuracy on the test images under 15 corruptions at five severities (Hendrycks and Dietterich 2019), and the mean "
    "ECE at each severity. The frost is drawn: it is not the published one."
)


def write(folder: RunFolder) -> Path:
    """Writes report.html of a finished run, self-contained and without scripts, and returns its path.

    Raises:
        DataError: results.json or another file of the folder is missing or damaged.
    """
    recorded, results = folder.recorded(), folder.results()
    sections = {
        section: [
            (image, caption)
            for name, caption in captions.items()
            if (image := _figure(folder.figures_dir / f"{name}.png", alt=caption))
        ]
        for section, captions in FIGURES.items()
    }
    corruptions = (
        folder.evaluation_dir("corruptions") / f"step_{results['test']['checkpoint_step']}" / "corruptions.png"
    )
    if corruptions.exists() and (image := _figure(corruptions, alt=CORRUPTIONS)):
        sections["Corrupted images"] = [(image, CORRUPTIONS)]
    write_page(
        folder.report_html,
        "run.html",
        name=run_name(folder),
        command=recorded["command"],
        config=flatten(recorded["config"]),
        results=results,
        architecture=folder.architecture(),
        sections=sections,
    )
    return folder.report_html


def _figure(path: Path, *, alt: str) -> Markup | None:
    """The figure as HTML; None, with a warning, if it is missing or damaged: the page is complete without it."""
    try:
        return inlined(path, alt=alt)
    except FileNotFoundError:
        log.warning("%s is missing: the page is without it", path)
    except Exception as error:  # Pillow raises any type for damage
        log.warning("%s is damaged (%s): the page is without it", path, one_line(error))
    return None
