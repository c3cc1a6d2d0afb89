"""The programs of a run, lowered from shapes alone and compiled for the devices of its mesh."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from cifar_jax.data.batches import DeviceBatch, DeviceSplit, abstract_batch
from cifar_jax.devices import replicated_like
from cifar_jax.errors import is_out_of_memory, one_line
from cifar_jax.evaluation.evaluate import with_tta
from cifar_jax.evaluation.features import abstract_data, classify, features
from cifar_jax.evaluation.logits import jit_predict
from cifar_jax.experiment import Experiment
from cifar_jax.models import summary
from cifar_jax.models.freezing import frozen_layers
from cifar_jax.training import proxy
from cifar_jax.training.state import abstract_state, device_bytes, tree_bytes
from cifar_jax.training.step import lower_steps


@dataclasses.dataclass(frozen=True)
class Step:
    """One program of a run, lowered.

    Attributes:
        name: 'training', 'evaluation' or 'features'.
        batch_key: the configuration key of its batch size.
        batch_size: images of one step, on all devices.
        steps: in one call.
        flops: of convolutions and dense layers in one step, on all devices.
        other_bytes: on each device, what the run keeps there besides the arguments of this program.
        donated: how many of its arguments it may overwrite.
    """

    name: str
    lowered: jax.stages.Lowered
    batch_key: str
    batch_size: int
    steps: int
    flops: int
    other_bytes: int
    donated: int = 0


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step with its program; `program` is None if the compiler ran out of the device's memory, see `message`."""

    step: Step
    seconds: float
    program: jax.stages.Compiled | None
    message: str = ""


def compile_step(step: Step) -> Compiled:
    """Compiles for the devices that the step was lowered for; they need not be there."""
    started = time.perf_counter()
    try:
        program, message = step.lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        program, message = None, one_line(error)
    return Compiled(step, time.perf_counter() - started, program, message)


def steps_of(experiment: Experiment) -> Iterator[Step]:
    """The programs in which a run spends its time. The L-BFGS fit of a probe is not among them."""
    if experiment.config.train.cached_features:
        yield features_step(experiment)
    if experiment.config.optimizer.name != "lbfgs":
        yield training_step(experiment)
    yield evaluation_step(experiment)


def training_step(experiment: Experiment) -> Step:
    """As the loop calls it; the validation images, if there are any, are on the devices too."""
    batch_size, steps = experiment.config.train.batch_size, experiment.steps_per_dispatch
    return Step(
        "training",
        lower_steps(experiment, steps=steps),
        batch_key="train.batch_size",
        batch_size=batch_size,
        steps=steps,
        flops=_flops_of_step(experiment),
        other_bytes=_shard_bytes(experiment, "validation") if "validation" in experiment.splits else 0,
        donated=len(jax.tree.leaves(abstract_state(experiment))),
    )


def evaluation_step(experiment: Experiment) -> Step:
    """As the validation of each epoch calls it, with the views of the final evaluation; training is on the devices.

    Without a validation split, as the evaluation of the test split calls it, after training.
    """
    tta = with_tta(experiment.config, "test")
    cached = experiment.config.train.cached_features
    forward = functools.partial(classify, experiment) if cached else experiment.logits
    state, validates = abstract_state(experiment), "validation" in experiment.splits
    train_bytes = _shard_bytes(experiment, "train") if validates else 0
    other_bytes = train_bytes + device_bytes(state) - device_bytes(state.variables)
    split = "validation" if validates else "test"
    batch_size = _evaluation_batch(experiment, split)
    data = abstract_data(experiment, split, batch_size=batch_size)
    settings = {"tta": tta, "views": 6 if tta else 1, "other_bytes": other_bytes, "batch_size": batch_size}
    return _forward_step("evaluation", experiment, data, forward, **settings)


def features_step(experiment: Experiment) -> Step:
    """The backbone, once per image of the training split, before training."""
    batch_size = _evaluation_batch(experiment, "train")
    data = abstract_batch(experiment.splits["train"], experiment.mesh, batch_size=batch_size)
    other_bytes = device_bytes(abstract_state(experiment).opt_state)
    settings = {"tta": False, "views": 1, "other_bytes": other_bytes, "batch_size": batch_size}
    return _forward_step("features", experiment, data, functools.partial(features, experiment), **settings)


def _evaluation_batch(experiment: Experiment, split: str) -> int:
    """Images of one call, as in `evaluation.logits.predict_split`."""
    size, devices = min(experiment.config.evaluation.batch_size, len(experiment.splits[split])), experiment.mesh.size
    return math.ceil(size / devices) * devices


def _forward_step(
    name: str,
    experiment: Experiment,
    data: DeviceSplit | DeviceBatch,
    forward,
    *,
    batch_size: int,
    tta: bool,
    views: int,
    other_bytes: int,
) -> Step:
    mesh = experiment.mesh
    variables = abstract_state(experiment).variables
    indices_B = replicated_like(jax.ShapeDtypeStruct((batch_size,), jnp.int32), mesh)
    size = experiment.preprocessing.image_size
    rows = summary.layers(experiment.model, size)
    if name == "evaluation" and experiment.config.train.cached_features:
        rows = rows[-1:]  # the head
    return Step(
        name,
        jit_predict(mesh, forward=forward, tta=tta).lower(variables, data, indices_B),
        batch_key="evaluation.batch_size",
        batch_size=batch_size,
        steps=1,
        flops=views * batch_size * sum(row["flops"] for row in rows),
        other_bytes=other_bytes,
    )


def _flops_of_step(experiment: Experiment) -> int:
    """With a proxy: its forward pass, in one of `proxy.EVERY` steps its backward pass, and the hardest images."""
    batch_size = experiment.config.train.batch_size
    if not proxy.is_on(experiment):
        return batch_size * _flops_of_training(experiment)
    small = proxy.proxy_of(experiment)
    forward = sum(row["flops"] for row in summary.layers(small.model, _largest_size(small)))
    backward = (_flops_of_training(small) - forward) // proxy.EVERY
    return batch_size * (forward + backward) + proxy.chosen_images(experiment) * _flops_of_training(experiment)


def _largest_size(experiment: Experiment) -> int:
    return max(experiment.config.train.image_sizes or (experiment.preprocessing.image_size,))


def _flops_of_training(experiment: Experiment) -> int:
    """Per image, forward and backward: a layer's kernel if it trains, its input if a layer before it trains."""
    size = _largest_size(experiment)
    frozen = frozen_layers(experiment.config.optimizer.rules, experiment.abstract_variables["params"])
    rows = summary.layers(experiment.model, size)
    if experiment.config.train.cached_features:
        rows = rows[-1:]
    total, passes_gradient = 0, False
    for row in rows:
        trains = row["name"] not in frozen
        total += row["flops"] * (1 + trains + passes_gradient)
        passes_gradient |= trains
    return total


def _shard_bytes(experiment: Experiment, split: str) -> int:
    batch_size = experiment.config.train.batch_size if split == "train" else _evaluation_batch(experiment, split)
    return tree_bytes(abstract_data(experiment, split, batch_size=batch_size)) // experiment.mesh.size
