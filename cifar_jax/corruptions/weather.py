"""Weather and light: snow, fog, brightness, and a frost that is drawn."""

import jax
import jax.numpy as jnp

from cifar_jax.corruptions.blur import motion_blur, truncated
from cifar_jax.corruptions.linear import along_both, zoom_weights

# The five photographs of frost that the published generator uses, reduced as there: mean color and standard deviation.
FROST_COLORS = ((78, 149, 165), (198, 203, 212), (198, 203, 212), (143, 158, 171), (103, 114, 126))
FROST_DEVIATIONS = (14, 18, 18, 26, 35)


def snow(
    image_HWC: jax.Array,
    noise_HW: jax.Array,
    angle: jax.Array,
    *,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> jax.Array:
    """Flakes, blurred by motion, over an image that is paler by 1 - `kept`.

    Args:
        noise_HW: standard normal; flakes are where `mean` + `deviation` * noise, enlarged by `zoom`, is `threshold` or
            more, on a scale of 0 to 1.
        angle, radius, sigma: see `motion_blur`.
    """
    layer_HWC = along_both((mean + deviation * noise_HW)[..., None], zoom_weights(len(image_HWC), zoom))
    layer_HWC = truncated(255 * jnp.where(layer_HWC < threshold, 0, layer_HWC))
    layer_HWC = motion_blur(layer_HWC, angle, radius=radius, sigma=sigma)
    gray_HWC = (image_HWC * jnp.array([0.299, 0.587, 0.114])).sum(axis=-1, keepdims=True)
    pale_HWC = kept * image_HWC + (1 - kept) * jnp.maximum(image_HWC, 1.5 * gray_HWC + 127.5)
    return pale_HWC + layer_HWC + layer_HWC[::-1, ::-1]


def fog(image_HWC: jax.Array, noise_MM: jax.Array, *, strength: float, decay: float) -> jax.Array:
    """Adds a fractal of 0 to `strength` (of values of 0 to 1), and scales so that the largest value stays.

    `noise_MM` and `decay`: see `plasma_fractal`; the upper left part of the fractal is used.
    """
    height, width, _ = image_HWC.shape
    largest, added = image_HWC.max(), 255 * strength
    fog_HW = plasma_fractal(noise_MM, decay=decay)[:height, :width]
    return (image_HWC + added * fog_HW[..., None]) * largest / (largest + added)


def plasma_fractal(noise_MM: jax.Array, *, decay: float) -> jax.Array:
    """A map of heights from 0 to 1, (M, M), by the diamond-square algorithm; it continues across its borders.

    Args:
        noise_MM: uniform in -1 to 1, one number for each point; M is a power of 2.
        decay: from one grid to the next finer one, noise decreases by its square (published as 'wibbledecay').
    """
    heights_GG, amplitude = jnp.zeros((1, 1)), 1.0
    while len(heights_GG) < len(noise_MM):
        step = len(noise_MM) // len(heights_GG)
        half = step // 2
        below_GG, right_GG = jnp.roll(heights_GG, -1, axis=0), jnp.roll(heights_GG, -1, axis=1)
        corners_GG = heights_GG + below_GG + right_GG + jnp.roll(below_GG, -1, axis=1)
        centers_GG = corners_GG / 4 + amplitude * noise_MM[half::step, half::step]
        across_GG = heights_GG + right_GG + centers_GG + jnp.roll(centers_GG, 1, axis=0)
        across_GG = across_GG / 4 + amplitude * noise_MM[::step, half::step]
        down_GG = heights_GG + below_GG + centers_GG + jnp.roll(centers_GG, 1, axis=1)
        down_GG = down_GG / 4 + amplitude * noise_MM[half::step, ::step]
        finer_G2G2 = jnp.stack(
            [jnp.stack([heights_GG, across_GG], axis=-1), jnp.stack([down_GG, centers_GG], axis=-1)], axis=1
        )
        heights_GG = finer_G2G2.reshape(2 * len(heights_GG), -1)
        amplitude /= decay**2
    lowest = heights_GG.min()
    return (heights_GG - lowest) / (heights_GG.max() - lowest)


def drawn_frost(
    image_HWC: jax.Array, noise_MM: jax.Array, photograph: jax.Array, *, kept: float, added: float
) -> jax.Array:
    """`kept` of the image plus `added` of a frost that is drawn, not the published photographs.

    It has the mean color and the standard deviation of one of the photographs, but not their crystals.

    Args:
        noise_MM: see `plasma_fractal`.
        photograph: index into `FROST_COLORS`; a scalar.
    """
    height, width, _ = image_HWC.shape
    heights_HW = plasma_fractal(noise_MM, decay=1)[:height, :width]
    texture_HW = (heights_HW - heights_HW.mean()) / heights_HW.std()
    color_C, deviation = jnp.array(FROST_COLORS)[photograph], jnp.array(FROST_DEVIATIONS)[photograph]
    frost_HWC = jnp.clip(color_C + deviation * texture_HW[..., None], 0, 255)
    return kept * image_HWC + added * frost_HWC


def brightness(image_HWC: jax.Array, *, added: float) -> jax.Array:
    """Adds to the value of HSV (0 to 1), up to 1, at the same hue and saturation.

    The published conversion to HSV and back multiplies the channels by the change of the largest one.
    """
    value_HWC = image_HWC.max(axis=-1, keepdims=True)
    brighter_HWC = jnp.minimum(value_HWC + 255 * added, 255)
    return jnp.where(value_HWC > 0, image_HWC * brighter_HWC / jnp.where(value_HWC > 0, value_HWC, 1), brighter_HWC)
