"""`--mode inspect`: layers, schedule and memory of a configuration, without data and training."""

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Column, Table

from cifar_jax.config.validate import validate
from cifar_jax.data.batches import DeviceSplit
from cifar_jax.devices import describe, replicated_like, sharded_like, start
from cifar_jax.experiment import Experiment, require_trainable, without_data
from cifar_jax.training import results
from cifar_jax.training.state import abstract_state, tree_bytes, update_schedule
from cifar_jax.training.step import compile_epoch_order, compile_steps

MEGABYTE = 2**20


def inspect(config: ConfigDict) -> list[Table]:
    """Tables of the layers with their parameters and FLOPs, of steps and learning rates, and of memory."""
    validate(config)
    start(config)
    experiment = without_data(config)
    require_trainable(experiment)
    return [_layers(results.architecture(experiment)), _schedule(experiment), _memory(experiment)]


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
    mesh, train, state = experiment.mesh, experiment.splits["train"], abstract_state(experiment)
    inputs_N = train.images_NHWC
    if experiment.config.train.cached_features:
        features = experiment.abstract_variables["params"]["head"]["kernel"].shape[0]
        inputs_N = np.broadcast_to(np.float32(0), (len(train), features))
    split = sharded_like(DeviceSplit(inputs_N, train.labels_N), mesh)
    order_EB = replicated_like(jax.eval_shape(compile_epoch_order(experiment), state.step), mesh)
    largest = max(experiment.config.train.image_sizes or (experiment.preprocessing.image_size,))
    compiled = compile_steps(experiment).lower(state, split, order_EB, steps=1, image_size=largest).compile()
    sizes = {
        "parameters": tree_bytes(state.params),
        "optimizer state": tree_bytes(state.opt_state),
        f"training split, {inputs_N.dtype}, all devices": tree_bytes(split),
        "temporaries of a step, per device": compiled.memory_analysis().temp_size_in_bytes,
    }
    table = Table("part", _right("MB"), title=f"memory on {describe(mesh)}")
    for name, size in sizes.items():
        table.add_row(name, f"{size / MEGABYTE:,.1f}")
    return table


def _right(heading: str) -> Column:
    return Column(heading, justify="right")
