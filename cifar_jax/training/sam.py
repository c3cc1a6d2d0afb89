"""Sharpness-aware minimization (Foret et al. 2021)."""

import jax
import jax.numpy as jnp

from cifar_jax.models.freezing import Rules, multipliers


def highest_nearby(params, gradients, *, radius: float, rules: Rules):
    """The parameters of the highest loss within `radius`, to first order: `radius` along the gradient.

    The distance is the L2 norm over all trained parameters; those that `rules` freeze stay as they are.

    Args:
        gradients: of the loss of the whole batch, so that the result does not depend on the number of devices. (The
            paper's code takes those of each device.)
    """

    def trained(multiplier, gradient):
        return gradient if multiplier else jnp.zeros_like(gradient)

    gradients = jax.tree.map(trained, multipliers(rules, params), gradients)
    norm = jnp.sqrt(sum(jnp.square(gradient).sum() for gradient in jax.tree.leaves(gradients)))
    scale = radius / (norm + 1e-12)
    return jax.tree.map(lambda value, gradient: value + scale * gradient, params, gradients)
