"""Training on the hardest images of each batch: those with the highest loss of a small network, the proxy.

As airbench96_faster (K. Jordan, cifar10-airbench, 2024), which trains the proxy first and keeps the choice of each
step. Here both train in the same step: the proxy does not depend on the model, so the choices are the same, and a
checkpoint has all that they depend on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.data.batches import my_part
from cifar_jax.devices import DATA_AXIS, traced_platform
from cifar_jax.experiment import Experiment
from cifar_jax.training.losses import softmax_cross_entropy

EVERY = 4  # steps: the proxy is updated in the first of them


def is_on(experiment: Experiment) -> bool:
    return experiment.config.train.hardest_fraction < 1


def proxy_of(experiment: Experiment) -> Experiment:
    """The experiment with the proxy in place of the model: a smaller network of its kind.

    Where the filters that whiten the images are frozen, so is the bias behind them, as published.
    """
    with experiment.config.unlocked():
        config = experiment.config.copy_and_resolve_references()
    rules = [("whiten", 0.0) if "whiten" in rule[0] else rule for rule in config.optimizer.rules]
    config.optimizer.rules = tuple(dict.fromkeys(rules))
    model = experiment.model.clone(widths=config.train.proxy_widths, convs_per_block=2, dropout=0.0)
    return dataclasses.replace(experiment, config=config, model=model)


def hardest(
    proxy: Experiment, state: dict, images_BHWC: jax.Array, targets_BK: jax.Array, *, step: jax.Array, optimizer
) -> tuple[dict, jax.Array, jax.Array]:
    """One step of the proxy, as one device sees it (inside `split_over_devices`).

    Args:
        proxy: from `proxy_of`.
        state: its 'params' and 'opt_state', replicated.
        images_BHWC: this device's part of the batch, as the model sees it.
        targets_BK: likewise.
        step: from 0 over the whole run; `optimizer` makes an update in one of `EVERY` steps.

    Returns:
        The state; the positions of the chosen images in the whole batch, ascending, int32 (C,); and the mean loss of
        the whole batch, which is not finite if the choice means nothing.
    """

    def losses_of(params):
        """The norms use the statistics of the batch; the running ones are of no use."""
        logits_BK, _ = proxy.model.apply({"params": params}, images_BHWC, train=True, mutable=["batch_stats"])
        return softmax_cross_entropy(logits_BK, targets_BK)

    losses_B, pull_back = jax.vjp(losses_of, state["params"])
    of_all_B = lax.all_gather(losses_B, DATA_AXIS, tiled=True)
    chosen = chosen_images(proxy)
    chosen_C = jnp.sort(lax.top_k(of_all_B, chosen)[1])
    weights_B = my_part(jnp.zeros_like(of_all_B).at[chosen_C].set(1 / chosen))

    def updated() -> dict:
        (gradients,) = pull_back(weights_B)
        gradients = lax.psum(gradients, DATA_AXIS)
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}

    is_due = step % EVERY == 0
    if traced_platform() == "cpu":  # XLA:CPU differentiates convolutions in a branch many times slower
        return jax.tree.map(lambda new, old: jnp.where(is_due, new, old), updated(), state), chosen_C, of_all_B.mean()
    return lax.cond(is_due, updated, lambda: state), chosen_C, of_all_B.mean()


def chosen_images(experiment: Experiment) -> int:
    """In a batch, over all devices."""
    return round(experiment.config.train.hardest_fraction * experiment.config.train.batch_size)


def only(chosen_C: jax.Array, values_B: jax.Array) -> jax.Array:
    """This device's part of the chosen elements of the whole batch."""
    return lax.all_gather(values_B, DATA_AXIS, tiled=True)[my_part(chosen_C)]
