"""Noise: Gaussian, shot and impulse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special


def gaussian_noise(image_HWC: jax.Array, noise_HWC: jax.Array, *, scale: float) -> jax.Array:
    """Adds standard normal `noise_HWC` times `scale`, which refers to values of 0 to 1."""
    return image_HWC + 255 * scale * noise_HWC


def shot_noise(image_HWC: jax.Array, uniform_HWC: jax.Array, *, photons: float) -> jax.Array:
    """Replaces value / 255 * `photons` by a Poisson count of that mean: the quantiles of numbers of 0 to 1.

    Args:
        image_HWC: whole numbers, for which the distributions are tabulated. `jax.random.poisson`, which is not, takes
            26 times as long.
    """
    steps = math.ceil(math.log2(photons + 10 * math.sqrt(photons)))
    means_V = np.arange(256) / 255 * photons
    table_VK = jnp.asarray(special.pdtr(np.arange(2**steps), means_V[:, None]), jnp.float32)
    values_HWC, counts_HWC = image_HWC.astype(jnp.int32), jnp.zeros(image_HWC.shape, jnp.int32)
    for step in reversed(range(steps)):  # binary search for the first count whose cumulative probability is enough
        below_HWC = table_VK[values_HWC, counts_HWC + 2**step - 1] < uniform_HWC
        counts_HWC += 2**step * below_HWC
    return counts_HWC * 255 / photons


def impulse_noise(image_HWC: jax.Array, uniform_HWC: jax.Array, *, amount: float) -> jax.Array:
    """Sets a share `amount` of all values, chosen by numbers of 0 to 1, half to black and half to white."""
    return jnp.where(uniform_HWC < amount / 2, 0, jnp.where(uniform_HWC < amount, 255, image_HWC))
