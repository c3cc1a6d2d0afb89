"""The compiled training step: batch, augmentation, forward, loss, gradient and update in one call."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.data.batches import epoch_order
from cifar_jax.devices import DATA_AXIS, REPLICATED, SHARDED, quickly_compiled, replicated_like, split_over_devices
from cifar_jax.evaluation.features import abstract_data
from cifar_jax.experiment import Experiment
from cifar_jax.models.freezing import keep_statistics
from cifar_jax.preprocessing import augment
from cifar_jax.training import losses, proxy, sharding
from cifar_jax.training.lookahead import look_ahead
from cifar_jax.training.optimizer import Coefficients, Rule
from cifar_jax.training.sam import highest_nearby
from cifar_jax.training.state import Metrics, TrainState, abstract_state, make_optimizer, update_coefficients


class EpochOrder(NamedTuple):
    """What a program needs to know of an epoch; replicated. Runs that differ only in this share one program."""

    rows_EB: jax.Array  # int32: the row numbers of every batch
    seed: jax.Array  # int32: `train.seed`
    coefficients: dict[Rule, Coefficients]  # float32: learning rates and weight decay


def train_on_batch(
    state: TrainState, images_BHWC, labels_B, indices_B, *, seed, experiment: Experiment, optimizer, image_size: int
) -> TrainState:
    """One update, as one device sees it (inside `split_over_devices`).

    Args:
        state: replicated, except for the parts of parameters that `training/sharding.py` splits.
        images_BHWC: this device's part of the batch, uint8; with `train.cached_features` float32 features (B, C).
        labels_B: likewise, int32.
        indices_B: row numbers of the whole batch, int32.
        seed: `train.seed`, int32.
        image_size: of the model's input, in pixels.
    """
    config, model, steps_per_epoch = experiment.config, experiment.model, experiment.steps_per_epoch
    targets_BK = losses.smoothed_targets(labels_B, model.num_classes, config.train.label_smoothing)
    forward = functools.partial(model.apply, train=True)
    if config.train.cached_features:
        forward = functools.partial(forward, method="classify")
    else:
        epoch = state.step // steps_per_epoch
        prepare = dataclasses.replace(experiment.preprocessing, image_size=image_size)
        images_BHWC, targets_BK = augment.augment_batch(
            images_BHWC, targets_BK, indices_B, config.augment, prepare, seed=seed, step=state.step, epoch=epoch
        )
    if proxy.is_on(experiment):
        small = proxy.proxy_of(experiment)
        of_proxy = {"step": state.step, "optimizer": make_optimizer(small, every=proxy.EVERY)}
        proxy_state, chosen_C, proxy_loss = proxy.hardest(small, state.proxy, images_BHWC, targets_BK, **of_proxy)
        batch = images_BHWC, targets_BK, labels_B
        images_BHWC, targets_BK, labels_B = (proxy.only(chosen_C, values_B) for values_B in batch)
        state = state.replace(proxy=proxy_state)
    if config.train.class_weights != "none":
        targets_BK = losses.weighted_targets(targets_BK, labels_B, experiment.class_weights)
    rngs = {"dropout": _dropout_key(seed, state.step)}
    dimensions = sharding.split_dimensions(experiment)

    def loss_of(params):
        variables = {"params": sharding.gather(params, dimensions), "batch_stats": state.batch_stats}
        with keep_statistics(experiment.frozen_norms):
            logits_BK, updated = forward(variables, images_BHWC, mutable=["batch_stats"], rngs=rngs)
        loss = losses.training_loss(logits_BK, targets_BK)
        return loss, (logits_BK, updated.get("batch_stats", state.batch_stats))

    differentiate = jax.value_and_grad(loss_of, has_aux=True)
    (loss, (logits_BK, batch_stats)), gradients = differentiate(state.params)
    correct = (logits_BK.argmax(-1) == labels_B).sum(dtype=jnp.int32)
    loss, gradients = lax.pmean(loss, DATA_AXIS), sharding.mean_gradients(gradients, dimensions)
    correct = lax.psum(correct, DATA_AXIS)
    if radius := config.optimizer.sam_radius:  # running statistics, loss and accuracy are those of the first pass
        norm = functools.partial(sharding.global_norm, dimensions=dimensions)
        nearby = highest_nearby(state.params, gradients, radius=radius, rules=config.optimizer.rules, norm=norm)
        _, gradients = differentiate(nearby)
        gradients = sharding.mean_gradients(gradients, dimensions)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if config.train.lookahead_steps:
        steps = {"every": config.train.lookahead_steps, "total_steps": experiment.total_steps}
        fast = {"params": params, "batch_stats": batch_stats}
        fast, slow = look_ahead(fast, state.slow, step=state.step + 1, **steps)
        params, batch_stats, state = fast["params"], fast["batch_stats"], state.replace(slow=slow)
    is_finite = jnp.isfinite(loss + proxy_loss if proxy.is_on(experiment) else loss)
    sums = {"loss": loss, "correct": correct, "count": len(labels_B) * experiment.mesh.size}
    decay = config.train.ema_decay
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=optax.incremental_update(params, state.ema_params, 1 - decay) if decay else {},
        metrics=_add(state, **sums, is_finite=is_finite, first=state.step % steps_per_epoch == 0),
    )


def _dropout_key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """Each device draws its own masks."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(jax.random.fold_in(key, 0xD20B0), lax.axis_index(DATA_AXIS))  # apart from augmentation's


def _add(state: TrainState, *, loss, correct, count: int, is_finite, first) -> Metrics:
    """The sums over the epoch with one more batch; its `first` step resets them."""
    before = jax.tree.map(lambda old: jnp.where(first, jnp.zeros_like(old), old), state.metrics)
    bad = state.metrics.first_bad_step
    return Metrics(
        loss_sum=before.loss_sum + loss * count,
        correct=before.correct + correct,
        count=before.count + count,
        first_bad_step=jnp.where((bad < 0) & ~is_finite, state.step, bad),
    )


def compile_steps(experiment: Experiment):
    """`run(state, data, order, steps=n, image_size=s) -> (state, metrics)`: the next n batches in one dispatch.

    `data` is an element of the `batches` of a split: the split itself, or one streamed batch, and then n is 1. All
    batches are of one epoch, and `image_size` is the `training_size` of that epoch.

    The state is donated: its buffers are reused and the argument becomes invalid; `metrics` is a copy.
    """

    def body(state, data, order, image_size):
        optimizer = make_optimizer(experiment, order.coefficients)
        indices_B = order.rows_EB[state.step % len(order.rows_EB)]
        images_BHWC, labels_B = data.batch(indices_B)
        settings = {"seed": order.seed, "experiment": experiment, "optimizer": optimizer, "image_size": image_size}
        return train_on_batch(state, images_BHWC, labels_B, indices_B, **settings)

    def on_device(state, data, order, *, steps, image_size):
        def step(state, _):
            return body(state, data, order, image_size), None

        if steps == 1:
            state, _ = step(state, None)
        else:
            state, _ = lax.scan(step, state, length=steps)
        return state, state.metrics

    def run(state, data, order, *, steps, image_size=experiment.preprocessing.image_size):
        function = functools.partial(on_device, steps=steps, image_size=image_size)
        of_state = sharding.partition_specs(experiment, state)
        specs = {"in_specs": (of_state, SHARDED, REPLICATED), "out_specs": (of_state, REPLICATED)}
        return split_over_devices(function, experiment.mesh, **specs)(state, data, order)

    return jax.jit(run, donate_argnums=0, static_argnames=("steps", "image_size"))


def lower_steps(experiment: Experiment, *, steps: int) -> jax.stages.Lowered:
    """`compile_steps` for `steps` batches of the largest images in training, lowered without data or a device."""
    mesh, state = experiment.mesh, abstract_state(experiment)
    order = replicated_like(jax.eval_shape(compile_epoch_order(experiment), state.step, state.step), mesh)
    image_size = max(experiment.config.train.image_sizes or (experiment.preprocessing.image_size,))
    data = abstract_data(experiment, "train", batch_size=experiment.config.train.batch_size)
    return compile_steps(experiment).lower(state, data, order, steps=steps, image_size=image_size)


def compile_epoch_order(experiment: Experiment):
    """`order(step, seed)`: the `EpochOrder` of the epoch that contains `step`; both int32, on the devices."""
    config, size = experiment.config.train, len(experiment.splits["train"])

    def order(step, seed):
        epoch = step // experiment.steps_per_epoch
        rows_EB = epoch_order(seed=seed, epoch=epoch, size=size, batch_size=config.batch_size)
        return EpochOrder(rows_EB, seed, jax.tree.map(jnp.float32, update_coefficients(experiment)))

    return quickly_compiled(order, experiment.mesh)
