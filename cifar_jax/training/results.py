"""What a run leaves behind besides its checkpoints: architecture, results and the basic figures."""

import importlib.metadata
import platform
import statistics
import subprocess
from pathlib import Path

import jax
import numpy as np

from cifar_jax import __version__
from cifar_jax.experiment import Experiment
from cifar_jax.mesh import describe, is_first_process
from cifar_jax.models import summary
from cifar_jax.report import figures
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.folder import History, RunFolder, write_json
from cifar_jax.training.evaluate import HEADLINE, evaluate_split, with_tta
from cifar_jax.training.optimizer import match_rules
from cifar_jax.training.state import abstract_state

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def architecture(experiment: Experiment) -> dict:
    """What stands in architecture.json: layers with shapes, parameters, whether they train, and FLOPs a picture."""
    rules = match_rules(experiment.config.optimizer.rules, experiment.abstract_variables["params"])
    rows = summary.layers(experiment.model, experiment.preprocessing.image_size)
    for row in rows:
        frozen = [rule.multiplier == 0 for rule in jax.tree.leaves(rules[row["name"]])]
        row["trainable"] = not all(frozen)
    return {
        "model": experiment.config.model.name,
        "input": [experiment.preprocessing.image_size] * 2 + [3],
        "layers": rows,
        "parameters": sum(row["parameter_count"] for row in rows),
        "trainable_parameters": sum(row["parameter_count"] for row in rows if row["trainable"]),
        "flops": sum(row["flops"] for row in rows),
    }


def write_architecture(experiment: Experiment, folder: RunFolder) -> None:
    """Leaves architecture.json."""
    write_json(folder.architecture_json, architecture(experiment))


def draw_data(experiment: Experiment, folder: RunFolder) -> None:
    """Leaves the two figures that need no training: samples and label_distribution."""
    train, name = experiment.splits["train"], experiment.dataset.name
    sizes = ", ".join(f"{split} {len(images):,}" for split, images in experiment.splits.items())
    figures.samples(
        train.images_NHWC,
        train.labels_N,
        train.class_names,
        title=f"{name}, train, n = {len(train):,}\n{folder.path.name}",
        path=folder.figures_dir / "samples.png",
    )
    figures.label_distribution(
        {
            split: np.bincount(images.labels_N, minlength=len(train.class_names))
            for split, images in experiment.splits.items()
        },
        train.class_names,
        title=f"{name}: {sizes}\n{folder.path.name}",
        path=folder.figures_dir / "label_distribution.png",
    )


def finish(
    experiment: Experiment,
    folder: RunFolder,
    checkpoints: Checkpoints,
    history: History,
    *,
    compile_seconds: float,
) -> dict:
    """Evaluates the best checkpoint on every split, the test split once, and leaves results.json.

    Returns:
        What stands in it.
    """
    best = checkpoints.restore_best(abstract_state(experiment))
    evaluations = {
        split: evaluate_split(
            experiment,
            best.state.variables,
            folder,
            split=split,
            step=best.step,
            tta=with_tta(experiment.config, split),
        )
        for split in ("train", "validation", "test")
    }
    kept = ("data", "split", *HEADLINE, "tta", "without_tta", "checkpoint_step")
    results = {split: {name: found[name] for name in kept if name in found} for split, found in evaluations.items()}
    results |= {
        "best_epoch": round(best.metadata["epoch"]),
        "best_step": best.step,
        "seconds": {"compile": compile_seconds, "run": sum(history.columns["seconds"])},
        "images_per_second": statistics.median(history.columns["images_per_second"]),
        "parameters": architecture(experiment)["parameters"],
        "data": experiment.data_description,
        "seed": experiment.config.train.seed,
        "environment": environment(experiment),
    }
    if is_first_process():
        title = f"{experiment.dataset.name}, train and validation\n{folder.path.name}"
        figures.curves(history.columns, title=title, path=folder.figures_dir / "curves.png")
        write_json(folder.results_json, results)
    return results


def environment(experiment: Experiment) -> dict:
    """Devices, versions and source: what a figure depends on besides the configuration."""
    return {
        "devices": describe(experiment.mesh),
        "processes": jax.process_count(),
        "machine": f"{platform.machine()} {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "source_revision": source_revision(),
    }


def source_revision() -> str:
    """The commit of a checkout ('+' where files differ from it), else the version of the package."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__


def describe_metrics(found: dict) -> str:
    """metrics.json in a line for people."""
    low, high = found["accuracy_interval"]
    views = f" with test-time augmentation ({found['without_tta']['accuracy']:.2%} without)" if found["tta"] else ""
    return (
        f"{found['data']}, {found['split']}, n = {found['n']:,}: accuracy {found['accuracy']:.2%} "
        f"[{low:.2%}, {high:.2%}]{views}, loss {found['loss']:.4f}, ECE {found['ece']:.4f} "
        f"(step {found['checkpoint_step']})"
    )
