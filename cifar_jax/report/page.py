"""report.html of one run: results, figures, architecture and configuration on one page."""

from pathlib import Path

from cifar_jax.config.validate import flatten
from cifar_jax.report.figures import run_name
from cifar_jax.report.html import inlined, write_page
from cifar_jax.runs.run_folder import RunFolder, read_json

FIGURES = {  # by section, in order, with captions
    "Training": {
        "curves": "Training loss (with label smoothing) and accuracy are means over the epoch on augmented images. "
        "They can be worse than validation loss and accuracy, measured without augmentation at its end.",
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


def write(folder: RunFolder) -> Path:
    """Writes report.html of a finished run, self-contained and without scripts, and returns its path.

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
        sections={
            section: [
                (inlined(path, alt=caption), caption)
                for name, caption in captions.items()
                if (path := folder.figures_dir / f"{name}.png").exists()
            ]
            for section, captions in FIGURES.items()
        },
    )
    return folder.report_html
