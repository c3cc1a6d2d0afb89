"""One function for each `--mode`: it starts the devices, calls the room that does the work, and prints the result."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from cifar_jax import experiment as experiments
from cifar_jax import mesh as meshes
from cifar_jax.runs import config as run_config
from cifar_jax.runs.folder import RunFolder, read_json
from cifar_jax.training import inspection, results, seeds
from cifar_jax.training.evaluate import evaluate_run
from cifar_jax.training.train import train as train_one


def train(config: ConfigDict, workdir: str, *, command: str) -> None:
    """Trains one run, or `train.seeds` of them, and prints the result."""
    run_config.validate(config)
    _start_devices(config)
    if config.train.seeds > 1:
        print(seeds.describe(seeds.train_seeds(config, workdir, command=command)))
    else:
        print(results.describe_metrics(train_one(config, workdir, command=command)["test"]))


def evaluate(workdir: str, *, split: str, checkpoint: str, tta: bool | None) -> None:
    """Evaluates a checkpoint of a run on one split and prints the figures."""
    folder = RunFolder(Path(workdir))
    if folder.config_json.exists():  # else `evaluate_run` says what is wrong
        _start_devices(ConfigDict(read_json(folder.config_json)["config"]))
    print(results.describe_metrics(evaluate_run(workdir, split=split, checkpoint=checkpoint, tta=tta)))


def inspect(config: ConfigDict) -> None:
    """Prints what a run of this configuration would be."""
    run_config.validate(config)
    _start_devices(config)
    experiment = experiments.without_data(config)
    experiments.require_divisible(experiment)
    inspection.inspect(experiment)


def _start_devices(config: ConfigDict) -> None:
    # Notes to developers, and Orbax's abandoned reads of a damaged checkpoint; what matters reaches us as exceptions.
    for name in ("jax", "orbax", "absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    meshes.initialise(cpu_devices=config.mesh.cpu_devices, compilation_cache=config.mesh.compilation_cache)
