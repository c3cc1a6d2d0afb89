"""Normalization and channel statistics compared with NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data import ImageSet
from cifar_jax.preprocessing import preprocess

IMAGES_BHWC = np.random.default_rng(0).integers(0, 256, (16, 9, 9, 3), np.uint8)


def test_normalization_against_float64():
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    normalized = jax.jit(preprocess.Preprocessing(mean, std, image_size=9))(IMAGES_BHWC)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, (IMAGES_BHWC / 255.0 - mean) / std, atol=2e-6)


def test_channel_statistics_against_float64():
    images_NHWC = np.random.default_rng(5).beta(2, (1, 2, 5), (50, 8, 8, 3)) * 255
    images = ImageSet(images_NHWC.astype(np.uint8), np.zeros(50, np.int32), ("one",))
    mean, std = preprocess.channel_statistics(images)
    scaled = images.images_NHWC.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-10)


def test_std_of_a_flat_color_is_not_zero():
    flat = ImageSet(np.full((2, 4, 4, 3), 7, np.uint8), np.zeros(2, np.int32), ("one",))
    _, std = preprocess.channel_statistics(flat)
    assert min(std) > 0
