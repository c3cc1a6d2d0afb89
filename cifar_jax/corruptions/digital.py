"""Digital: contrast, elastic transform, pixelate and JPEG."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from PIL import Image

from cifar_jax.corruptions.linear import along_both, box_weights, gaussian_weights


def contrast(image_HWC: jax.Array, *, kept: float) -> jax.Array:
    """Multiplies the distance to the mean of each channel by `kept`."""
    mean_C = image_HWC.mean(axis=(0, 1))
    return (image_HWC - mean_C) * kept + mean_C


def elastic_transform(
    image_HWC: jax.Array, shifts_32: jax.Array, noise_2HW: jax.Array, *, scale: float, sigma: float
) -> jax.Array:
    """An affine transform, then a smooth field of shifts; both interpolate linearly and reflect at the border.

    Args:
        shifts_32: where three corners of the central square move, in pixels to the right and down: lower right, upper
            right, upper left.
        noise_2HW: uniform in -1 to 1, for shifts to the right and down.
        scale, sigma: the noise is smoothed by a Gaussian of `sigma` pixels and multiplied by `scale` pixels.
    """
    height, width, _ = image_HWC.shape
    down_HW, right_HW = jnp.mgrid[:height, :width].astype(jnp.float32)
    side = min(height, width) // 3
    corners_32 = jnp.array([height // 2, width // 2]) + side * jnp.array([[1.0, 1], [1, -1], [-1, -1]])
    # The result at a moved corner is the image at the corner: an affine function that is -shift there.
    moved_33 = jnp.concatenate([corners_32 + shifts_32, jnp.ones((3, 1))], axis=1)
    affine_32 = jnp.linalg.solve(moved_33, -shifts_32)
    back_HW2 = right_HW[..., None] * affine_32[0] + down_HW[..., None] * affine_32[1] + affine_32[2]
    image_HWC = _sampled(image_HWC, down_HW + back_HW2[..., 1], right_HW + back_HW2[..., 0], mode="mirror")
    weights_HH = gaussian_weights(height, sigma=sigma, truncate=3, mode="symmetric")
    field_HW2 = scale * along_both(jnp.moveaxis(noise_2HW, 0, -1), weights_HH)
    return _sampled(image_HWC, down_HW + field_HW2[..., 1], right_HW + field_HW2[..., 0], mode="reflect")


def _sampled(image_HWC: jax.Array, rows_HW: jax.Array, columns_HW: jax.Array, *, mode: str) -> jax.Array:
    """The image at fractional positions in pixels, with linear interpolation."""
    at_positions = lambda image_HW: map_coordinates(image_HW, [rows_HW, columns_HW], order=1, mode=mode)  # noqa: E731
    return jax.vmap(at_positions, in_axes=-1, out_axes=-1)(image_HWC)


def pixelate(image_HWC: jax.Array, *, kept: float) -> jax.Array:
    """Reduces the sides to `kept` of their length and enlarges them, as Pillow with its box filter. Whole numbers."""
    size = len(image_HWC)
    small = int(size * kept)
    return _box_resized(_box_resized(image_HWC, small), size)


def _box_resized(image_HWC: jax.Array, size: int) -> jax.Array:
    """Resized along the columns, then along the rows, each rounded to whole numbers with halves upward."""
    weights_OI = jnp.asarray(box_weights(len(image_HWC), size), jnp.float32)
    image_HWC = jnp.floor(jnp.einsum("hwc,pw->hpc", image_HWC, weights_OI, precision="highest") + 0.5)
    return jnp.floor(jnp.einsum("oh,hpc->opc", weights_OI, image_HWC, precision="highest") + 0.5)


def jpeg_compression(image_HWC: np.ndarray, *, quality: int) -> np.ndarray:
    """uint8 -> uint8: written and read by Pillow, on the host. The result depends on the version of libjpeg."""
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))
