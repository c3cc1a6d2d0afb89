"""The training state: everything that a checkpoint must hold for training to go on bit for bit."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax.experiment import Experiment
from cifar_jax.mesh import replicate, replicated_like
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
    return optimizer.build(
        experiment.config.optimizer,
        experiment.abstract_variables["params"],
        schedule=update_schedule(experiment),
    )


def update_schedule(experiment: Experiment) -> optax.Schedule:
    """The multiplier of the peak learning rate at each update of the parameters."""
    every = experiment.config.optimizer.accumulate_steps
    return optimizer.learning_rate_schedule(
        experiment.config.schedule,
        updates_per_epoch=experiment.steps_per_epoch / every,
        total_updates=experiment.total_steps // every,
    )


def create(experiment: Experiment) -> TrainState:
    """Random initial state; traceable, so that nothing need be computed to know its shapes."""
    key = jax.random.key(experiment.config.train.seed)
    variables = experiment.model.init(key, experiment.sample_input(), train=False)
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
    return replicated_like(jax.eval_shape(lambda: create(experiment)), experiment.mesh)


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0, on the mesh.

    What decides the initial weights, in this order: (1) the random initialisers and train.seed; (2) for a model with a
    whitening layer, its filters, computed from the first 5,000 training pictures.
    """
    state = jax.jit(lambda: create(experiment))()
    if "whiten" in state.params:
        pictures_NHWC = experiment.preprocessing(jnp.asarray(experiment.splits["train"].images_NHWC[:5000]))
        kernel = whitening_kernel(np.asarray(pictures_NHWC))
        params = {**state.params, "whiten": {"kernel": kernel}}
        state = state.replace(params=params, ema_params=params if state.ema_params else {})
    # Copies on the host: params and ema_params may be one buffer, and every buffer is donated to the first step.
    return replicate(jax.tree.map(np.array, state), experiment.mesh)
