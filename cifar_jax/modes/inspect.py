"""`--mode inspect`: layers, schedule and memory of a configuration, without data and training.

With a target, its programs compiled for a device that this machine lacks: see `cifar_jax/targets`.
"""

from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.table import Column, Table

from cifar_jax.config.validate import validate
from cifar_jax.devices import describe, start
from cifar_jax.evaluation.features import abstract_data
from cifar_jax.experiment import Experiment, without_data
from cifar_jax.runs.json_files import write_json
from cifar_jax.targets import catalog, report, topology
from cifar_jax.training import results
from cifar_jax.training.requirements import note_other_devices, require_trainable
from cifar_jax.training.state import abstract_state, device_bytes, tree_bytes, update_schedule
from cifar_jax.training.step import lower_steps

MEGABYTE = 2**20


def inspect(config: ConfigDict, *, target: str = "", output: str = "", command: str = "") -> list[Table]:
    """Tables of the layers with their parameters and FLOPs, of steps and learning rates, and of memory.

    Args:
        target: a name in `targets.catalog.NAMES`: instead, compiles the programs of a run for that device, in seconds
            to minutes each, and returns what its compiler reports. Must run before the first JAX computation.
        output: the JSON file that is then written.
        command: recorded in that file.

    Raises:
        UsageError: an unknown target, or one whose compiler is not installed.
        DataError: JAX cannot compile for the target, or the file cannot be written.
    """
    validate(config)
    if target:
        return report.tables(_compile_for(target, config, Path(output), command=command))
    start(config)
    experiment = _trainable(config)
    return [_layers(results.architecture(experiment)), _schedule(experiment), _memory(experiment)]


def _compile_for(name: str, config: ConfigDict, output: Path, *, command: str) -> dict:
    target = catalog.find(name)
    topology.start()
    start(config)
    mesh = None if target.platform == "cpu" else topology.mesh_of(target, name, fsdp=config.mesh.fsdp)
    experiment = _trainable(config, mesh)
    content = report.compile_for(target, name, experiment, command=command)
    write_json(output, content)  # the search that follows may take minutes
    content["largest_batch"] = report.search_largest_batch(target, experiment, content["programs"])
    write_json(output, content)
    return content


def _trainable(config: ConfigDict, mesh: Mesh | None = None) -> Experiment:
    experiment = without_data(config, mesh=mesh)
    require_trainable(experiment)
    note_other_devices(experiment)
    return experiment


def _layers(architecture: dict) -> Table:
    height, width, channels = architecture["input"]
    columns = ("layer", "output", _right("parameters"), "trainable", _right("MFLOP/image"))
    table = Table(*columns, title=f"{architecture['model']} on {width} x {height} x {channels} pixels")
    for row in architecture["layers"]:
        table.add_row(
            row["name"],
            " x ".join(map(str, row["output_shape"])),
            f"{row['parameter_count']:,}",
            "yes" if row["trainable"] else "frozen",
            f"{row['flops'] / 1e6:,.2f}" if row["flops"] else "",
        )
    frozen = architecture["parameters"] - architecture["trainable_parameters"]
    table.add_section()
    megaflops = f"{architecture['flops'] / 1e6:,.2f}"
    table.add_row("all", "", f"{architecture['parameters']:,}", f"{frozen:,} frozen", megaflops)
    return table


def _schedule(experiment: Experiment) -> Table:
    config = experiment.config
    updates = experiment.total_steps // config.optimizer.accumulate_steps
    schedule, peak = update_schedule(experiment), config.optimizer.learning_rate
    batches = f"{experiment.steps_per_epoch:,} batches of {config.train.batch_size:,} images"
    title = f"{config.train.epochs} epochs of {batches}: {experiment.total_steps:,} steps, {updates:,} updates"
    table = Table(_right("update"), _right(f"learning rate ({config.optimizer.name})"), "", title=title)
    for update in np.linspace(0, updates - 1, 11).round().astype(int):
        rate = peak * float(schedule(int(update)))
        table.add_row(f"{update:,}", f"{rate:.6f}", "#" * round(40 * rate / peak))
    return table


def _memory(experiment: Experiment) -> Table:
    state = abstract_state(experiment)
    data = abstract_data(experiment, "train", batch_size=experiment.config.train.batch_size)
    of_data = "streamed batch" if experiment.dataset.is_streamed else "training split"
    compiled = lower_steps(experiment, steps=1).compile()
    sizes = {
        "parameters, per device": device_bytes(state.params),
        "optimizer state, per device": device_bytes(state.opt_state),
        f"{of_data}, {data[0].dtype}, all devices": tree_bytes(data),
        "temporaries of a step, per device": compiled.memory_analysis().temp_size_in_bytes,
    }
    table = Table("part", _right("MB"), title=f"memory on {describe(experiment.mesh)}")
    for name, size in sizes.items():
        table.add_row(name, f"{size / MEGABYTE:,.1f}")
    return table


def _right(heading: str) -> Column:
    return Column(heading, justify="right")
