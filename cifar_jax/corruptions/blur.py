"""Blur: defocus, glass, motion and zoom."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.corruptions.linear import along_both, gaussian_weights, zoom_weights


def defocus_blur(image_HWC: jax.Array, *, radius: float, softness: float) -> jax.Array:
    """Averages over a disk of `radius` pixels with a soft edge; the image is reflected at its border."""
    height, width, _ = image_HWC.shape
    kernel_TT = disk(radius, softness)
    reach = len(kernel_TT) // 2
    padded = jnp.pad(image_HWC, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return sum(
        float(weight) * padded[row : row + height, column : column + width]
        for (row, column), weight in np.ndenumerate(kernel_TT)
    )


def disk(radius: float, softness: float) -> np.ndarray:
    """Weights of sum 1, float64 (T, T): the pixels within `radius`, then a Gaussian of 3 x 3 pixels, sigma `softness`.

    OpenCV's GaussianBlur, as published, with a kernel that is as small as possible.
    """
    reach = int(radius) + 1
    line_T = np.arange(-reach, reach + 1)
    inside_TT = line_T[:, None] ** 2 + line_T**2 <= radius**2
    steps_TT = np.abs(line_T[:, None] - line_T)
    blur_TT = np.where(steps_TT <= 1, np.exp(-0.5 * (steps_TT / softness) ** 2), 0)
    blur_TT /= 1 + 2 * np.exp(-0.5 / softness**2)
    return blur_TT @ (inside_TT / inside_TT.sum()) @ blur_TT


def glass_blur(image_HWC: jax.Array, offsets_RHW2: jax.Array, *, sigma: float) -> jax.Array:
    """Blurs, moves pixels by up to one pixel in R rounds, and blurs again.

    Args:
        offsets_RHW2: int32, -1 or 0: rows and columns from a pixel to the one that replaces it.
    """
    weights_HH = gaussian_weights(len(image_HWC), sigma=sigma, truncate=4, mode="edge")
    image_HWC = truncated(along_both(image_HWC, weights_HH))
    for offsets_HW2 in offsets_RHW2:
        image_HWC = move_pixels(image_HWC, offsets_HW2)
    return along_both(image_HWC, weights_HH)


def move_pixels(image_HWC: jax.Array, offsets_HW2: jax.Array) -> jax.Array:
    """Replaces each pixel by the one at its offset, except in the first two rows and columns.

    The published loop is written as a swap of two pixels. But NumPy assigns through views, so that the second half of
    the swap has no effect, and from the last pixel to the first every source is read before it is replaced.
    """
    height, width, _ = image_HWC.shape
    rows_HW, columns_HW = jnp.mgrid[:height, :width]
    moves_HW = (rows_HW >= 2) & (columns_HW >= 2)
    return image_HWC[rows_HW + moves_HW * offsets_HW2[..., 0], columns_HW + moves_HW * offsets_HW2[..., 1]]


def motion_blur(image_HWC: jax.Array, angle: jax.Array, *, radius: int, sigma: float) -> jax.Array:
    """Averages along a line of whole-pixel steps that begins at each pixel; the border is repeated. Whole numbers.

    ImageMagick's MotionBlurImage (MagickCore/effect.c), with its result rounded to 8 bits: half a Gaussian over
    2 * radius + 1 steps.

    Args:
        angle: degrees, clockwise from the direction of the columns; a scalar.
        radius, sigma: in pixels.
    """
    height, width, _ = image_HWC.shape
    steps_T = np.arange(2 * radius + 1)
    weights_T = np.exp(-0.5 * (steps_T / sigma) ** 2)
    across, down = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    rows_TH = jnp.arange(height) + jnp.ceil(steps_T * down - 0.5).astype(jnp.int32)[:, None]
    columns_TW = jnp.arange(width) + jnp.ceil(steps_T * across - 0.5).astype(jnp.int32)[:, None]
    rows_TH, columns_TW = jnp.clip(rows_TH, 0, height - 1), jnp.clip(columns_TW, 0, width - 1)
    shifted_THWC = image_HWC[rows_TH[:, :, None], columns_TW[:, None, :]]
    weights_T = jnp.asarray(weights_T / weights_T.sum(), jnp.float32)
    return jnp.round((weights_T[:, None, None, None] * shifted_THWC).sum(axis=0))


def zoom_blur(image_HWC: jax.Array, *, factors: Sequence[float]) -> jax.Array:
    """The mean of the image and of the image enlarged by each of the factors."""
    weights_ZOI = jnp.asarray(np.stack([zoom_weights(len(image_HWC), factor) for factor in factors]), jnp.float32)
    lines_ZOWC = jnp.einsum("zoh,hwc->zowc", weights_ZOI, image_HWC, precision=lax.Precision.HIGHEST)
    enlarged_HWC = jnp.einsum("zowc,zpw->opc", lines_ZOWC, weights_ZOI, precision=lax.Precision.HIGHEST)
    return (image_HWC + enlarged_HWC) / (len(factors) + 1)


def truncated(image_HWC: jax.Array) -> jax.Array:
    """Whole numbers of 0 to 255, rounded down as published; 57 less a rounding error of float32 stays 57."""
    return jnp.floor(jnp.clip(image_HWC + 1e-4, 0, 255))
