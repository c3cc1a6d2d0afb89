"""Linear filters along rows and columns, as matrices from a line of pixels to a line of pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def along_both(image_HWC: jax.Array, weights_OI: np.ndarray) -> jax.Array:
    """Applies a matrix (O, H) to the rows and the columns of a square image: (O, O, C)."""
    weights_OI = jnp.asarray(weights_OI, jnp.float32)
    return jnp.einsum("oh,hwc,pw->opc", weights_OI, image_HWC, weights_OI, precision=lax.Precision.HIGHEST)


def gaussian_weights(size: int, *, sigma: float, truncate: float, mode: str) -> np.ndarray:
    """The Gaussian filter of scipy.ndimage, float64 (size, size).

    Args:
        sigma: in pixels.
        truncate: the filter ends after this many `sigma`, rounded to pixels.
        mode: how the line is extended, as in `np.pad`: 'edge' (SciPy: nearest) or 'symmetric' (SciPy: reflect).
    """
    reach = int(truncate * sigma + 0.5)
    taps_T = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-9)) ** 2)
    sources_P = np.pad(np.arange(size), reach, mode=mode)
    weights_OI = np.zeros((size, size))
    for output in range(size):
        np.add.at(weights_OI[output], sources_P[output : output + len(taps_T)], taps_T / taps_T.sum())
    return weights_OI


def zoom_weights(size: int, factor: float) -> np.ndarray:
    """Enlarges the center of a line by `factor`, at least 1, with linear interpolation: float64 (size, size).

    As published: scipy.ndimage.zoom of the smallest part that covers the line, which maps the centers of its first and
    last pixel to those of the result; the result is then cropped to the line.
    """
    part = math.ceil(size / factor)
    enlarged = round(part * factor)
    trim = (enlarged - size) // 2
    positions_O = np.arange(trim, trim + size) * (part - 1) / max(enlarged - 1, 1) + (size - part) // 2
    return np.maximum(1 - np.abs(positions_O[:, None] - np.arange(size)), 0)


def box_weights(in_size: int, out_size: int) -> np.ndarray:
    """Pillow's box filter, float64 (out_size, in_size): the mean of the pixels whose centers an output pixel covers."""
    stretch = max(in_size / out_size, 1)
    centers_O = (np.arange(out_size) + 0.5) * in_size / out_size
    distance_OI = (np.arange(in_size) + 0.5 - centers_O[:, None]) / stretch
    covered_OI = (distance_OI > -0.5) & (distance_OI <= 0.5)
    return covered_OI / covered_OI.sum(axis=1, keepdims=True)
