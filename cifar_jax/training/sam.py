"""Sharpness-aware minimization (Foret et al. 2021)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cifar_jax.models.freezing import Rules, multipliers


def highest_nearby(params, gradients, *, radius: float, rules: Rules, norm: Callable = optax.tree.norm):
    """The parameters of the highest loss within `radius`, to first order: `radius` along the gradient.

    The distance is the L2 norm over all trained parameters; those that `rules` freeze stay as they are.

    Args:
        gradients: of the loss of the whole batch, so that the result does not depend on the number of devices. (The
            paper's code takes those of each device.)
        norm: of a tree like params.
    """

    def trained(multiplier, gradient):
        return gradient if multiplier else jnp.zeros_like(gradient)

    gradients = jax.tree.map(trained, multipliers(rules, params), gradients)
    scale = radius / (norm(gradients) + 1e-12)
    return jax.tree.map(lambda value, gradient: value + scale * gradient, params, gradients)
