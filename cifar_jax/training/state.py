"""The training state: everything that a checkpoint must hold for training to go on bit for bit."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax.devices import quickly_compiled, replicate, replicated_like
from cifar_jax.experiment import Experiment
from cifar_jax.models import initial
from cifar_jax.models.cnn import whitening_kernel
from cifar_jax.training import optimizer


class Metrics(flax.struct.PyTreeNode):
    """Sums over the epoch so far.

    `first_bad_step` is the first step of the run whose loss was not finite, -1 while there is none.
    """

    loss_sum: jax.Array  # float32
    correct: jax.Array  # int32
    count: jax.Array  # int32
    first_bad_step: jax.Array  # int32

    @classmethod
    def zero(cls) -> "Metrics":
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(-1))


class TrainState(flax.struct.PyTreeNode):
    """Replicated on every device. Order and augmentation follow from (seed, step), so no generator is kept."""

    step: jax.Array  # int32: batches seen
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any  # the average of params that evaluation uses; an empty dict where train.ema_decay is 0
    metrics: Metrics

    @property
    def variables(self) -> dict:
        """What evaluation applies the model with."""
        return {"params": self.ema_params or self.params, "batch_stats": self.batch_stats}


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """The optimizer of the configuration, for the parameters of the model."""
    updates_per_epoch = experiment.steps_per_epoch / experiment.config.optimizer.accumulate_steps
    return optimizer.build(
        experiment.config.optimizer,
        experiment.abstract_variables["params"],
        schedule=update_schedule(experiment),
        head_updates=round(experiment.config.schedule.head_epochs * updates_per_epoch),
    )


def update_schedule(experiment: Experiment) -> optax.Schedule:
    """The multiplier of the peak learning rate at each update of the parameters."""
    every = experiment.config.optimizer.accumulate_steps
    return optimizer.learning_rate_schedule(
        experiment.config.schedule,
        updates_per_epoch=experiment.steps_per_epoch / every,
        total_updates=experiment.total_steps // every,
    )


def create(experiment: Experiment, variables: dict) -> TrainState:
    """The state at step 0 with these params and batch_stats; traceable, so that its shapes can be had for nothing."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(experiment).init(params),
        ema_params=params if experiment.config.train.ema_decay else {},
        metrics=Metrics.zero(),
    )


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings: what a checkpoint is restored into."""
    state = jax.eval_shape(functools.partial(create, experiment), experiment.abstract_variables)
    return replicated_like(state, experiment.mesh)


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0, on the mesh."""
    state = quickly_compiled(functools.partial(create, experiment))(initial_variables(experiment))
    # Copies on the host: params and ema_params may be one buffer, and every buffer is donated to the first step.
    return replicate(jax.tree.map(np.array, state), experiment.mesh)


def initial_variables(experiment: Experiment) -> dict:
    """params and batch_stats at step 0.

    What decides them, in this order: (1) the random initializers and train.seed; (2) pretrained weights, of everything
    but the head; (3) for a model with a whitening layer, its filters, from the first 5,000 training images.
    """
    seed = experiment.config.train.seed
    if experiment.config.model.name == "resnet":
        abstract = experiment.abstract_variables
        if experiment.backbone is None:
            return initial.fill(abstract, seed=seed)
        head = initial.fill({"params": {"head": abstract["params"]["head"]}}, seed=seed)["params"]
        return {"params": experiment.backbone.params | head, "batch_stats": experiment.backbone.batch_stats}
    initialize = quickly_compiled(functools.partial(experiment.model.init, train=False))
    variables = initialize(jax.random.key(seed), experiment.sample_input())
    if "whiten" in variables["params"]:
        images_NHWC = experiment.preprocessing(jnp.asarray(experiment.splits["train"].images_NHWC[:5000]))
        kernel = whitening_kernel(np.asarray(images_NHWC))
        variables["params"] = {**variables["params"], "whiten": {"kernel": kernel}}
    return variables
