"""The compiled training step: batch, augmentation, forward, loss, gradient and update in one call."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import NamedSharding

from cifar_jax.data.batches import epoch_order, gather
from cifar_jax.devices import DATA_AXIS, REPLICATED, SHARDED, quickly_compiled, split_over_devices
from cifar_jax.experiment import Experiment
from cifar_jax.preprocessing import augment
from cifar_jax.training.state import Metrics, TrainState, make_optimizer


def augmented(images_BHWC, targets_BK, indices_B, *, step, epoch, config, prepare) -> tuple[jax.Array, jax.Array]:
    """This device's part of a batch as the network sees it in training, with its targets.

    Args:
        images_BHWC: uint8, as stored.
        targets_BK: float32, of sum 1.
        indices_B: row numbers of the whole batch, int32.
        step: number of the batch in the run.
        epoch: from 0.
        prepare: see `train_on_batch`.
    """
    key = jax.random.fold_in(jax.random.key(config.train.seed), step)
    augment_key, cutout_key, mixup_key, crop_key = jax.random.split(key, 4)
    images_BHWC = augment.augment(
        images_BHWC,
        indices_B=indices_B,
        epoch=epoch,
        key=augment_key,
        seed=config.train.seed,
        flip=config.augment.flip,
        crop_padding=config.augment.crop_padding,
    )
    if config.augment.random_resized_crop:
        images_BHWC = augment.random_resized_crop(
            images_BHWC,
            size=prepare.image_size,
            key=crop_key,
            batch_size=len(indices_B),
            scale=(config.augment.random_resized_crop, 1.0),
            method=prepare.resize_method,
        )
    images_BHWC = prepare(images_BHWC)
    if config.augment.cutout:
        images_BHWC = augment.cutout(images_BHWC, key=cutout_key, batch_size=len(indices_B), side=config.augment.cutout)
    if config.augment.mixup:
        images_BHWC, targets_BK = augment.mixup(images_BHWC, targets_BK, key=mixup_key, alpha=config.augment.mixup)
    return images_BHWC, targets_BK


def train_on_batch(
    state: TrainState, images_BHWC, labels_B, indices_B, *, model, optimizer, config, prepare, steps_per_epoch
) -> TrainState:
    """One update, as one device sees it (inside `split_over_devices`).

    Args:
        state: replicated.
        images_BHWC: this device's part of the batch, uint8; with `train.cached_features` float32 features (B, C).
        labels_B: likewise, int32.
        indices_B: row numbers of the whole batch, int32.
        prepare: the `Preprocessing` of the model.
    """
    targets_BK = optax.smooth_labels(jax.nn.one_hot(labels_B, model.num_classes), config.train.label_smoothing)
    if config.train.cached_features:
        forward = functools.partial(model.apply, method="classify")
    else:
        forward = functools.partial(model.apply, train=True)
        images_BHWC, targets_BK = augmented(
            images_BHWC,
            targets_BK,
            indices_B,
            step=state.step,
            epoch=state.step // steps_per_epoch,
            config=config,
            prepare=prepare,
        )

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits_BK, updated = forward(variables, images_BHWC, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy(logits_BK, targets_BK).mean()
        return loss, (logits_BK, updated.get("batch_stats", state.batch_stats))

    (loss, (logits_BK, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    correct = (logits_BK.argmax(-1) == labels_B).sum(dtype=jnp.int32)
    loss, gradients = lax.pmean((loss, gradients), DATA_AXIS)
    correct = lax.psum(correct, DATA_AXIS)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = config.train.ema_decay
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=optax.incremental_update(params, state.ema_params, 1 - decay) if decay else {},
        metrics=_add(state, loss=loss, correct=correct, count=len(indices_B), first=state.step % steps_per_epoch == 0),
    )


def _add(state: TrainState, *, loss, correct, count: int, first) -> Metrics:
    """The epoch's sums with one batch more; they begin anew at its `first` step."""
    before = jax.tree.map(lambda old: jnp.where(first, jnp.zeros_like(old), old), state.metrics)
    bad = state.metrics.first_bad_step
    return Metrics(
        loss_sum=before.loss_sum + loss * count,
        correct=before.correct + correct,
        count=before.count + count,
        first_bad_step=jnp.where((bad < 0) & ~jnp.isfinite(loss), state.step, bad),
    )


def compile_steps(experiment: Experiment):
    """`run(state, split, order_EB, steps=n) -> (state, metrics)`: the next n batches of the epoch in one dispatch.

    The state is donated: its buffers are reused, the argument is gone afterwards. `metrics` is a copy that is not.
    More than one batch runs as a `lax.scan`.
    """
    settings = {
        "model": experiment.model,
        "optimizer": make_optimizer(experiment),
        "config": experiment.config,
        "prepare": experiment.preprocessing,
        "steps_per_epoch": experiment.steps_per_epoch,
    }

    def body(state, split, order_EB):
        indices_B = order_EB[state.step % len(order_EB)]
        images_BHWC, labels_B = gather(split, indices_B)
        return train_on_batch(state, images_BHWC, labels_B, indices_B, **settings)

    def run(state, split, order_EB, *, steps):
        if steps == 1:
            state = body(state, split, order_EB)
        else:
            state, _ = lax.scan(lambda state, _: (body(state, split, order_EB), None), state, length=steps)
        return state, state.metrics

    def on_mesh(state, split, order_EB, *, steps):
        return split_over_devices(
            functools.partial(run, steps=steps),
            experiment.mesh,
            in_specs=(REPLICATED, SHARDED, REPLICATED),
            out_specs=REPLICATED,
        )(state, split, order_EB)

    return jax.jit(on_mesh, donate_argnums=0, static_argnames="steps")


def compile_epoch_order(experiment: Experiment):
    """`order(step) -> order_EB` of the epoch that `step` (an array on the devices) lies in, replicated."""

    def order(step):
        return epoch_order(
            seed=experiment.config.train.seed,
            epoch=step // experiment.steps_per_epoch,
            size=len(experiment.splits["train"]),
            batch_size=experiment.config.train.batch_size,
        )

    return quickly_compiled(order, out_shardings=NamedSharding(experiment.mesh, REPLICATED))
