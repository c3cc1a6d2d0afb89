"""One function for each `--mode`: it starts the devices, calls the room that does the work, and prints the result."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from cifar_jax import experiment as experiments
from cifar_jax import mesh as meshes
from cifar_jax.data import pictures
from cifar_jax.errors import DataError
from cifar_jax.report import drawing, page
from cifar_jax.runs import config as run_config
from cifar_jax.runs.folder import RunFolder, read_json
from cifar_jax.training import inspection, predict_pictures, results, seeds
from cifar_jax.training.evaluate import evaluate_run
from cifar_jax.training.export import export_run
from cifar_jax.training.train import train as train_one


def train(config: ConfigDict, workdir: str, *, command: str) -> None:
    """Trains one run, or `train.seeds` of them, and prints the result."""
    run_config.validate(config)
    _start_devices(config)
    if config.train.seeds > 1:
        print(seeds.describe(seeds.train_seeds(config, workdir, command=command)))
        if meshes.is_first_process():
            from cifar_jax.report import side_by_side  # here: Matplotlib takes 0.3 s to import

            side_by_side.write(Path(workdir).absolute())
    else:
        print(results.describe_metrics(train_one(config, workdir, command=command)["test"]))


def ledger(config: ConfigDict, workdir: str, *, command: str) -> None:
    """Trains a configuration with its mistakes, mended one after the other, and prints where the ledger is."""
    from cifar_jax.training import ledger as ledgers

    run_config.validate(config)
    _start_devices(config)
    print(*ledgers.run(config, workdir, command=command), sep="\n")


def evaluate(workdir: str, *, split: str, checkpoint: str, tta: bool | None) -> None:
    """Evaluates a checkpoint of a run on one split and prints the figures."""
    _start_devices_of_run(workdir)
    print(results.describe_metrics(evaluate_run(workdir, split=split, checkpoint=checkpoint, tta=tta)))


def predict(workdir: str, *, images: Sequence[str], output: str, checkpoint: str, tta: bool | None) -> None:
    """Prints class and probability of picture files, and writes all probabilities to `output` where one is named.

    Raises:
        DataError: some files could not be read; the others are printed and written.
    """
    files = pictures.find(images)
    _start_devices_of_run(workdir)
    table, unreadable = predict_pictures.predict(workdir, files, checkpoint=checkpoint, tta=tta, output=output)
    Console(width=None if sys.stdout.isatty() else 1000).print(table)  # a pipe has no width: nothing is folded
    if unreadable:
        raise DataError(f"{unreadable} of {len(files)} files could not be read, see above; the others are done")


def export(workdir: str, *, output: str, format: str, checkpoint: str) -> None:
    """Writes the network of a run in a format that other programs read, and prints the files."""
    _start_devices_of_run(workdir)
    print(*export_run(workdir, output=output, format=format, checkpoint=checkpoint), sep="\n")


def report(workdir: str) -> None:
    """Writes the page of one run again, or compares all finished runs below a folder, and prints where."""
    from cifar_jax.report import side_by_side

    folder = RunFolder(Path(workdir))
    if folder.config_json.exists():
        drawing.redraw(folder)
        print(page.write(folder))
    else:
        print(*side_by_side.write(folder.path), sep="\n")


def inspect(config: ConfigDict) -> None:
    """Prints what a run of this configuration would be."""
    run_config.validate(config)
    _start_devices(config)
    experiment = experiments.without_data(config)
    experiments.require_divisible(experiment)
    inspection.inspect(experiment)


def _start_devices_of_run(workdir: str) -> None:
    folder = RunFolder(Path(workdir))
    if folder.config_json.exists():  # else restoring says what is wrong
        _start_devices(ConfigDict(read_json(folder.config_json)["config"]))


def _start_devices(config: ConfigDict) -> None:
    # Notes to developers, and Orbax's abandoned reads of a damaged checkpoint; what matters reaches us as exceptions.
    for name in ("jax", "orbax", "absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    meshes.initialise(
        cpu_devices=config.mesh.cpu_devices,
        batch_size=config.train.batch_size,
        compilation_cache=config.mesh.compilation_cache,
    )
