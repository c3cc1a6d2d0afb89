"""Lookahead against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.training.lookahead import look_ahead


def test_every_fifth_step_and_the_last_restart_from_the_average():
    """A weight that each step raises by 1, and a frozen one."""
    total, weight, average = 13, 0.0, 0.0
    steps = {"every": 5, "total_steps": total}
    fast = slow = {"weight": jnp.float32(0), "frozen": jnp.float32(0.1)}
    run = jax.jit(look_ahead, static_argnames=("every", "total_steps"))
    for step in range(1, total + 1):
        weight += 1
        if step % 5 == 0:
            kept = 0.95**5 * (step / total) ** 3
            average = kept * average + (1 - kept) * weight
        if step % 5 == 0 or step == total:
            weight = average
        fast, slow = run({**fast, "weight": fast["weight"] + 1}, slow, step=jnp.int32(step), **steps)
        np.testing.assert_allclose([fast["weight"], slow["weight"]], [weight, average], rtol=1e-6)
        assert fast["frozen"] == slow["frozen"] == jnp.float32(0.1)
