"""TrivialAugment Wide (Müller and Hutter 2021): one random operation of random strength for each image.

Operations and strengths are those of torchvision's TrivialAugmentWide on Pillow images, uint8 in and out. Positions are
rounded to the nearest pixel in Pillow's fixed-point arithmetic; pixels from outside the image are black. Blends and
stretched values are cut, not rounded, to whole numbers. Where the result is a whole number, rounding before the cut
decides, and a value may differ from Pillow's by one; all others are equal.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data.batches import my_part

LEVELS = 31  # strengths of an operation
OPERATIONS = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)


def trivial_augment(images_BHWC: jax.Array, *, key: jax.Array, batch_size: int) -> jax.Array:
    """Changes each image, uint8 (B, H, W, 3) on this device, by a random operation, strength and sign.

    `batch_size` is that of all devices.
    """
    operation_key, level_key, sign_key = jax.random.split(key, 3)
    operations_B = my_part(jax.random.randint(operation_key, (batch_size,), 0, len(OPERATIONS)))
    levels_B = my_part(jax.random.randint(level_key, (batch_size,), 0, LEVELS))
    negative_B = my_part(jax.random.randint(sign_key, (batch_size,), 0, 2))
    return change(images_BHWC, operations_B, levels_B, negative_B)


def change(images_BHWC: jax.Array, operations_B: jax.Array, levels_B: jax.Array, negative_B: jax.Array) -> jax.Array:
    """Each uint8 image after one operation.

    Args:
        operations_B: int32, indices of `OPERATIONS`.
        levels_B: int32, 0 (weakest) to 30.
        negative_B: int32, 1 for the negative strength; only operations that have one use it.
    """
    strengths_B = jnp.asarray(strengths())[operations_B, levels_B, negative_B]
    matrices_B6 = jnp.asarray(fixed_point_matrices(*images_BHWC.shape[1:3]))[operations_B, levels_B, negative_B]
    factors_B = 1 + strengths_B
    changed = {
        "Brightness": lambda: blend(jnp.zeros_like(images_BHWC), images_BHWC, factors_B),
        "Color": lambda: blend(gray(images_BHWC), images_BHWC, factors_B),
        "Contrast": lambda: blend(mean_gray(images_BHWC), images_BHWC, factors_B),
        "Sharpness": lambda: blend(smooth(images_BHWC), images_BHWC, factors_B),
        "Posterize": lambda: posterize(images_BHWC, strengths_B),
        "Solarize": lambda: solarize(images_BHWC, strengths_B),
        "AutoContrast": lambda: autocontrast(images_BHWC),
        "Equalize": lambda: equalize(images_BHWC),
    }
    result_BHWC = move(images_BHWC, matrices_B6)
    for name, operation in changed.items():
        is_this_B = operations_B == OPERATIONS.index(name)
        result_BHWC = jnp.where(is_this_B[:, None, None, None], operation(), result_BHWC)
    return result_BHWC


def strengths() -> np.ndarray:
    """float32 (operations, LEVELS, 2): the strength at each level, positive and negative.

    Evenly spaced, each value rounded once; `torch.linspace` rounds the last digit by the processor's vector length.
    """
    table = {name: np.zeros((LEVELS, 2)) for name in OPERATIONS}
    strongest = {
        **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), 0.99),
        **{"TranslateX": 32, "TranslateY": 32, "Rotate": 135},  # pixels and degrees
    }
    for name, value in strongest.items():
        table[name] += np.linspace(0, value, LEVELS)[:, None] * [1, -1]
    table["Posterize"] += 8 - np.round(np.arange(LEVELS) / 5)[:, None]  # bits that are kept
    table["Solarize"] += np.linspace(255, 0, LEVELS)[:, None]  # threshold
    return np.stack(list(table.values())).astype(np.float32)


def fixed_point_matrices(height: int, width: int) -> np.ndarray:
    """int32 (operations, LEVELS, 2, 6): a, b, c, d, e, f of 16 fractional bits.

    Pixel (row y, column x) of the result is pixel (row d x + e y + f, column a x + b y + c) of the image, rounded down.
    """
    table = {name: np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (LEVELS, 2, 1)) for name in OPERATIONS}
    strength = dict(zip(OPERATIONS, strengths().astype(np.float64), strict=True))
    table["ShearX"][..., 1] = strength["ShearX"]
    table["ShearY"][..., 3] = strength["ShearY"]
    table["TranslateX"][..., 2] = -np.trunc(strength["TranslateX"])
    table["TranslateY"][..., 5] = -np.trunc(strength["TranslateY"])
    angles = -np.radians(strength["Rotate"])  # around the center of the image
    cos, sin = np.cos(angles).round(15), np.sin(angles).round(15)
    x, y = width / 2, height / 2
    table["Rotate"] = np.stack([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], axis=-1)
    a, b, c, d, e, f = np.moveaxis(np.stack(list(table.values())), -1, 0)
    at_centers = np.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], axis=-1)
    return np.floor(at_centers * 65536 + 0.5).astype(np.int32)


def move(images_BHWC: jax.Array, matrices_B6: jax.Array) -> jax.Array:
    """Shears, shifts or rotates each image; `matrices_B6` as of `fixed_point_matrices`."""
    _, height, width, _ = images_BHWC.shape
    rows_H1, columns_1W = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

    def move_one(image_HWC, matrix_6):
        a, b, c, d, e, f = matrix_6
        x_HW = (a * columns_1W + b * rows_H1 + c) >> 16
        y_HW = (d * columns_1W + e * rows_H1 + f) >> 16
        inside_HW = (x_HW >= 0) & (x_HW < width) & (y_HW >= 0) & (y_HW < height)
        moved_HWC = image_HWC[jnp.clip(y_HW, 0, height - 1), jnp.clip(x_HW, 0, width - 1)]
        return jnp.where(inside_HW[..., None], moved_HWC, 0)

    return jax.vmap(move_one)(images_BHWC, matrices_B6)


def blend(degenerate_BHWC: jax.Array, images_BHWC: jax.Array, factors_B: jax.Array) -> jax.Array:
    """From the degenerate image (factor 0) through the image (factor 1) and beyond, cut to whole values of 0..255."""
    low_BHWC, high_BHWC = degenerate_BHWC.astype(jnp.float32), images_BHWC.astype(jnp.float32)
    blended_BHWC = low_BHWC + factors_B[:, None, None, None] * (high_BHWC - low_BHWC)
    return jnp.clip(blended_BHWC, 0, 255).astype(jnp.uint8)


def gray(images_BHWC: jax.Array) -> jax.Array:
    """The luma of ITU-R 601-2 in all channels, rounded as Pillow does."""
    weights_C = jnp.array([19595, 38470, 7471])
    luma_BHW = ((images_BHWC.astype(jnp.int32) * weights_C).sum(axis=-1) + 0x8000) >> 16
    return jnp.broadcast_to(luma_BHW[..., None], images_BHWC.shape).astype(jnp.uint8)


def mean_gray(images_BHWC: jax.Array) -> jax.Array:
    """Images of one gray, the rounded mean luma."""
    _, height, width, _ = images_BHWC.shape
    pixels, luma_BHW = height * width, gray(images_BHWC)[..., 0]
    mean_B = (luma_BHW.sum(axis=(1, 2), dtype=jnp.uint32) + pixels // 2) // pixels
    return jnp.broadcast_to(mean_B[:, None, None, None], images_BHWC.shape).astype(jnp.uint8)


def smooth(images_BHWC: jax.Array) -> jax.Array:
    """Weighted means of 3x3 pixels, 5 for the center and 1 for the others; the outermost pixels stay as they are."""
    _, height, width, _ = images_BHWC.shape
    if min(height, width) < 3:
        return images_BHWC
    wide_BHWC = images_BHWC.astype(jnp.int32)
    rows_BHWC = wide_BHWC[:, :-2] + wide_BHWC[:, 1:-1] + wide_BHWC[:, 2:]
    sums_BHWC = rows_BHWC[:, :, :-2] + rows_BHWC[:, :, 1:-1] + rows_BHWC[:, :, 2:] + 4 * wide_BHWC[:, 1:-1, 1:-1]
    means_BHWC = (2 * sums_BHWC + 13) // 26  # rounded
    return images_BHWC.at[:, 1:-1, 1:-1].set(means_BHWC.astype(jnp.uint8))


def posterize(images_BHWC: jax.Array, bits_B: jax.Array) -> jax.Array:
    """Keeps the upper bits of each value."""
    lower_B = (8 - bits_B).astype(jnp.uint8)[:, None, None, None]
    return (images_BHWC >> lower_B) << lower_B


def solarize(images_BHWC: jax.Array, thresholds_B: jax.Array) -> jax.Array:
    """Inverts the values from the threshold on."""
    return jnp.where(images_BHWC < thresholds_B[:, None, None, None], images_BHWC, 255 - images_BHWC)


def autocontrast(images_BHWC: jax.Array) -> jax.Array:
    """Stretches each channel to 0..255, rounded down.

    In whole numbers; Pillow computes in floating point.
    """
    low_B11C = images_BHWC.min(axis=(1, 2), keepdims=True).astype(jnp.int32)
    high_B11C = images_BHWC.max(axis=(1, 2), keepdims=True).astype(jnp.int32)
    stretched_BHWC = (images_BHWC.astype(jnp.int32) - low_B11C) * 255 // jnp.maximum(high_B11C - low_B11C, 1)
    return jnp.where(high_B11C > low_B11C, stretched_BHWC, images_BHWC).astype(jnp.uint8)


def equalize(images_BHWC: jax.Array) -> jax.Array:
    """Maps the values of each channel so that they are spread evenly, by the formula of Pillow's `equalize`."""

    def equalize_one(values_P):
        counts_V = jnp.zeros(256, jnp.int32).at[values_P].add(1)
        step = (len(values_P) - counts_V[values_P.max()]) // 255
        before_V = jnp.cumsum(counts_V) - counts_V
        table_V = jnp.minimum((step // 2 + before_V) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table_V.astype(jnp.uint8)[values_P], values_P)

    batch, height, width, channels = images_BHWC.shape
    values_BPC = images_BHWC.reshape(batch, height * width, channels)
    over_channels = jax.vmap(equalize_one, in_axes=-1, out_axes=-1)
    return jax.vmap(over_channels)(values_BPC).reshape(images_BHWC.shape)
