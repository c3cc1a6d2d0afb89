"""The files of a run besides its checkpoints: architecture, results, figures and report."""

import importlib.metadata
import platform
import statistics
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import __version__
from cifar_jax.devices import REPLICATED, describe, is_first_process, make_mesh, split_over_devices
from cifar_jax.evaluation.evaluate import HEADLINE, evaluate_split, with_tta
from cifar_jax.experiment import Experiment
from cifar_jax.models import summary
from cifar_jax.models.freezing import frozen_layers
from cifar_jax.preprocessing import augment
from cifar_jax.report import figures, page
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.history import History
from cifar_jax.runs.json_files import json_checksum, write_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.state import abstract_state

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def architecture(experiment: Experiment) -> dict:
    """The content of architecture.json: layers with shapes, parameters, whether they train, and FLOPs per image."""
    frozen = frozen_layers(experiment.config.optimizer.rules, experiment.abstract_variables["params"])
    rows = summary.layers(experiment.model, experiment.preprocessing.image_size)
    for row in rows:
        row["trainable"] = row["name"] not in frozen
    return {
        "model": experiment.config.model.name,
        "input": [experiment.preprocessing.image_size] * 2 + [3],
        "layers": rows,
        "parameters": sum(row["parameter_count"] for row in rows),
        "trainable_parameters": sum(row["parameter_count"] for row in rows if row["trainable"]),
        "flops": sum(row["flops"] for row in rows),
    }


def describe_start(experiment: Experiment, folder: RunFolder) -> None:
    """Writes architecture.json and the figures of the data; takes 3 s, of which 2 s compile the augmentation."""
    from cifar_jax.report import classes, image_grids  # here: Matplotlib takes 0.3 s to import

    write_json(folder.architecture_json, architecture(experiment))
    train, name, run = experiment.splits["train"], experiment.dataset.name, figures.run_name(folder)
    sizes = ", ".join(f"{split} {len(images):,}" for split, images in experiment.splits.items())
    title, path = f"{name}, train, n = {len(train):,}\n{run}", folder.figures_dir / "samples.png"
    image_grids.samples(train.images_NHWC, train.labels_N, train.class_names, title=title, path=path)
    num_classes = len(train.class_names)
    counts = {split: np.bincount(images.labels_N, minlength=num_classes) for split, images in experiment.splits.items()}
    title, path = f"{name}: {sizes}\n{run}", folder.figures_dir / "label_distribution.png"
    classes.label_distribution(counts, train.class_names, title=title, path=path)
    before_NHWC, after_ENHWC = seen_in_training(experiment)
    stored, seen = before_NHWC.shape[1], after_ENHWC.shape[2]
    kinds = [
        key.replace("_", " ") + ("" if value is True else f" {value}")
        for key, value in experiment.config.augment.items()
        if value
    ]
    image_grids.augmentation(
        before_NHWC,
        after_ENHWC,
        title=f"{name}, train, n = {len(train):,}, {stored} px{f', seen at {seen} px' if seen != stored else ''}\n"
        f"{run}: {', '.join(kinds)}",
        path=folder.figures_dir / "augmentation.png",
    )


def seen_in_training(experiment: Experiment, *, size: int = 8, epochs: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A few training images as stored, and as augmented in the first epochs.

    Returns:
        uint8 (size, H, W, 3) and uint8 (epochs, size, H', W', 3), without normalization.
    """
    config, preprocessing, train = experiment.config, experiment.preprocessing, experiment.splits["train"]
    rows_B = np.linspace(0, len(train) - 1, size).astype(np.int32)
    before_BHWC = train.images_NHWC[rows_B]

    def seen(images_BHWC, epoch):
        rows = jnp.asarray(rows_B)
        moment = {"seed": config.train.seed, "step": epoch * experiment.steps_per_epoch, "epoch": epoch}
        images_BHWC, _ = augment.augment_batch(
            images_BHWC, jnp.zeros((size, 1)), rows, config.augment, preprocessing, **moment
        )
        images_BHWC = 255 * (images_BHWC * jnp.array(preprocessing.std) + jnp.array(preprocessing.mean))
        return jnp.clip(images_BHWC.round(), 0, 255).astype(jnp.uint8)

    on_one_device = split_over_devices(seen, make_mesh(1), in_specs=(REPLICATED, REPLICATED), out_specs=REPLICATED)
    compiled = jax.jit(on_one_device)
    return before_BHWC, np.stack([jax.device_get(compiled(before_BHWC, epoch)) for epoch in range(epochs)])


def finish(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints, history: History, *, compile_seconds: float
) -> dict:
    """Evaluates the best checkpoint once on every split; writes results.json and returns its content.

    Without a validation split, it is the last checkpoint, and the results have no temperature.
    """
    best = checkpoints.restore_best(abstract_state(experiment))

    def evaluate(split: str, temperature: float | None = None) -> dict:
        selection = {"split": split, "step": best.step, "tta": with_tta(experiment.config, split)}
        evaluation = evaluate_split(experiment, best.state.variables, **selection, temperature=temperature)
        folder.require_present()
        evaluation.write(folder, folder.evaluation_dir(split), with_figures=split == "test")
        return evaluation.metrics

    evaluations, temperature, chosen = {"train": evaluate("train")}, None, {}
    if "validation" in experiment.splits:
        evaluations["validation"] = validation = evaluate("validation")
        temperature = validation["temperature_scaled"]["temperature"]
        epoch = round(best.metadata["epoch"])
        chosen = {"best_epoch": epoch, "best_step": best.step, "temperature": temperature}
    evaluations["test"] = evaluate("test", temperature)
    top5 = ("top5_accuracy", "top5_accuracy_interval")  # of more than ten classes
    kept = ("data", "split", *HEADLINE, *top5, "temperature_scaled", "tta", "without_tta", "checkpoint_step")
    results = {
        split: {name: metrics[name] for name in kept if name in metrics} for split, metrics in evaluations.items()
    }
    if experiment.config.optimizer.name == "lbfgs":  # its final fit includes the validation images
        results["validation"]["before_final_fit"] = {
            "accuracy": history.columns["val_accuracy"][-1],
            "loss": history.columns["val_loss"][-1],
        }
    results |= {
        **chosen,
        "seconds": {"compile": compile_seconds, "run": sum(history.columns["seconds"])},
        "images_per_second": statistics.median(history.columns["images_per_second"]),
        "parameters": architecture(experiment)["parameters"],
        "data": experiment.data_description,
        "seed": experiment.config.train.seed,
        "environment": environment(experiment),
        "history_checksum": json_checksum(history.columns),
    }
    if is_first_process():
        run = figures.run_name(folder)
        figures.draw_history(history.columns, results, run=run, directory=folder.figures_dir)
        write_json(folder.results_json, results)
        page.write(folder)
    return results


def environment(experiment: Experiment) -> dict:
    """Devices, versions and source revision, on which results depend besides the configuration."""
    return {
        "devices": describe(experiment.mesh),
        "processes": jax.process_count(),
        "machine": f"{platform.machine()} {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "source_revision": source_revision(),
    }


def source_revision() -> str:
    """The commit of the checkout (with '+' if files differ from it), or the version of the installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package, perhaps inside the checkout of another project
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__


def describe_results(results: dict) -> str:
    """A summary of results.json, of a run or of several seeds, for the terminal; up to 80 columns."""
    test = results["test"]
    if "seeds" not in results:
        return describe_metrics(test)
    low, high = test["accuracy_interval"]
    views = " with test-time augmentation" if test["tta"] else ""
    return (
        f"{results['data']['name']}, test, n = {test['n']:,}, {test['runs']} seeds\n"
        f"  mean accuracy {test['accuracy']:.2%} [{low:.2%}, {high:.2%}]{views}"
    )


def describe_metrics(metrics: dict) -> str:
    """A summary of metrics.json for the terminal; up to 80 columns."""
    low, high = metrics["accuracy_interval"]
    views = f", {metrics['without_tta']['accuracy']:.2%} without test-time augmentation" if metrics["tta"] else ""
    return (
        f"{metrics['data']}, {metrics['split']}, n = {metrics['n']:,}, step {metrics['checkpoint_step']:,}\n"
        f"  accuracy {metrics['accuracy']:.2%} [{low:.2%}, {high:.2%}]{views}\n"
        f"  loss {metrics['loss']:.4f}, ECE {metrics['ece']:.4f}"
    )
