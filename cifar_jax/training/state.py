"""The training state: all that a checkpoint must hold for training to resume bit for bit."""

import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax.devices import placed_like, quickly_compiled, require_free
from cifar_jax.experiment import Experiment
from cifar_jax.training import optimizer, sharding
from cifar_jax.training import proxy as proxies


class Metrics(flax.struct.PyTreeNode):
    """Sums over the epoch so far."""

    loss_sum: jax.Array  # float32
    correct: jax.Array  # int32
    count: jax.Array  # int32
    first_bad_step: jax.Array  # int32: the first step of the run whose loss, or the proxy's, was not finite, or -1

    @classmethod
    def zero(cls) -> "Metrics":
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(-1))


class TrainState(flax.struct.PyTreeNode):
    """On every device, or split over some of them (`training/sharding.py`).

    Order, augmentation and dropout follow from (seed, step): no generator is kept.
    """

    step: jax.Array  # int32: batches seen
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any  # the average of params that evaluation uses; an empty dict if train.ema_decay is 0
    metrics: Metrics

    @property
    def variables(self) -> dict:
        """The variables that evaluation uses."""
        return {"params": self.ema_params or self.params, "batch_stats": self.batch_stats}


class LookaheadState(TrainState):
    """The state with `train.lookahead_steps`."""

    slow: Any  # the average of params and batch_stats, each by its name


class FilteringState(LookaheadState):
    """The state with `train.hardest_fraction` below 1; without lookahead, `slow` is an empty dict."""

    proxy: Any  # 'params' and 'opt_state', see `training/proxy.py`


def update_coefficients(experiment: Experiment) -> dict[optimizer.Rule, optimizer.Coefficients]:
    """The learning rates and the weight decay of the configuration, by rule."""
    config, params = experiment.config, experiment.abstract_variables["params"]
    early_layer = "whiten_bias" if config.schedule.whiten_bias_epochs else ""
    rules = optimizer.match_rules(config.optimizer, params, early_layer=early_layer)
    return optimizer.coefficients(config.optimizer, rules)


def make_optimizer(experiment: Experiment, coefficients=None, *, every: int = 1) -> optax.GradientTransformation:
    """The optimizer of the configuration, for the parameters of the model.

    Args:
        coefficients: as from `update_coefficients`, with arguments of a program in place of the numbers.
        every: the optimizer gets one of this many gradients.
    """
    config, params = experiment.config, experiment.abstract_variables["params"]
    dimensions = sharding.split_dimensions(experiment)

    def updates_in(epochs: float) -> float:
        return epochs * experiment.steps_per_epoch / config.optimizer.accumulate_steps / every

    schedule = update_schedule(experiment)
    return optimizer.build(
        config.optimizer,
        params,
        schedule=schedule if every == 1 else lambda update: schedule(every * update),
        head_updates=round(updates_in(config.schedule.head_epochs)),
        whiten_bias_updates=math.ceil(updates_in(config.schedule.whiten_bias_epochs)),
        given=coefficients,
        norm=functools.partial(sharding.global_norm, dimensions=dimensions),
    )


def update_schedule(experiment: Experiment) -> optax.Schedule:
    """The multiplier of the peak learning rate at each update of the parameters."""
    every = experiment.config.optimizer.accumulate_steps
    updates = {
        "updates_per_epoch": experiment.steps_per_epoch / every,
        "total_updates": experiment.total_steps // every,
    }
    return optimizer.learning_rate_schedule(experiment.config.schedule, **updates)


def create(experiment: Experiment, variables: dict) -> TrainState:
    """The state at step 0 with these params and batch_stats; traceable, so that `jax.eval_shape` gives its shapes.

    With `train.hardest_fraction`, `variables` has the parameters of the proxy as 'proxy'.
    """
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    fields = {
        "step": jnp.int32(0),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": make_optimizer(experiment).init(params),
        "ema_params": params if experiment.config.train.ema_decay else {},
        "metrics": Metrics.zero(),
    }
    slow = {"params": params, "batch_stats": batch_stats} if experiment.config.train.lookahead_steps else {}
    if proxies.is_on(experiment):
        of_proxy = make_optimizer(proxies.proxy_of(experiment), every=proxies.EVERY)
        proxy = {"params": variables["proxy"], "opt_state": of_proxy.init(variables["proxy"])}
        return FilteringState(**fields, slow=slow, proxy=proxy)
    return LookaheadState(**fields, slow=slow) if slow else TrainState(**fields)


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings, as a template to restore a checkpoint into."""
    variables = experiment.abstract_variables
    if proxies.is_on(experiment):
        variables = variables | {"proxy": proxies.proxy_of(experiment).abstract_variables["params"]}
    state = jax.eval_shape(functools.partial(create, experiment), variables)
    return placed_like(state, sharding.partition_specs(experiment, state), experiment.mesh)


def tree_bytes(tree) -> int:
    """Of all arrays, on all devices together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(tree) -> int:
    """Of the parts of the arrays, which have shardings, on one device."""
    parts = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts)


def require_room(experiment: Experiment) -> None:
    """Raises DataError if the state of the experiment does not fit into the memory of the devices."""
    needed = 2 * device_bytes(abstract_state(experiment))  # `initial_state` and restoring hold a copy
    fix = "use a smaller model, such as --config.model.widths or width"
    require_free(needed, experiment.mesh, what="model and optimizer", fix=fix)


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0, on the mesh."""
    variables = initial_variables(experiment)
    for name, tree in (experiment.initial_weights or {}).items():
        variables[name] = {**variables.get(name, {}), **tree}  # no batch_stats in models without BatchNorm
    if proxies.is_on(experiment):
        variables = {**variables, "proxy": initial_variables(proxies.proxy_of(experiment))["params"]}
    state = quickly_compiled(functools.partial(create, experiment))(variables)
    # Copies on the host: params, ema_params and slow may share buffers, and every buffer is donated to the first step.
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(experiment))
    return jax.device_put(jax.tree.map(np.array, state), shardings)


def initial_variables(experiment: Experiment) -> dict:
    """params and batch_stats at step 0: random by train.seed, or pretrained with a random head."""
    model, backbone, seed = experiment.model, experiment.backbone, experiment.config.train.seed
    if backbone is None:
        images_NHWC = experiment.splits["train"].images_NHWC
        return model.initial_variables(seed=seed, images_NHWC=images_NHWC, prepare=experiment.preprocessing)
    sample_NC = jnp.zeros((1, experiment.abstract_variables["params"]["head"]["kernel"].shape[0]))
    initialize = quickly_compiled(functools.partial(model.init, train=False, method="classify"))
    head = initialize(jax.random.key(seed), sample_NC)["params"]
    return {"params": backbone.params | head, "batch_stats": backbone.batch_stats}
