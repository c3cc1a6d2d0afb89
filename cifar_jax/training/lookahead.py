"""Lookahead: every few steps, training restarts from a slow average of the weights and running statistics."""

import jax
import jax.numpy as jnp


def look_ahead(fast, slow, *, step: jax.Array, every: int, total_steps: int):
    """(fast, slow) after `step` steps, counted from 1; both are trees of weights and running statistics.

    Zhang et al., Lookahead optimizer: k steps forward, 1 step back, 2019, with the schedule of cifar10-airbench: the
    average keeps 0.95**every * (step / total_steps)**3 of its old value. At the end of training `fast` is the average.
    """
    kept = 0.95**every * (step / total_steps) ** 3
    updates = step % every == 0
    restarts = updates | (step == total_steps)

    def averaged(slow, fast):
        return jnp.where(updates, slow + (1 - kept) * (fast - slow), slow)  # frozen values keep their bits

    slow = jax.tree.map(averaged, slow, fast)
    return jax.tree.map(lambda fast, slow: jnp.where(restarts, slow, fast), fast, slow), slow
