"""Resizing against Pillow's float path, channel by channel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cifar_jax.preprocessing.resize import resampling_weights, resize

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
TOLERANCE = 1e-3  # of pixel values 0..255


def images(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (4, height, width, channels), np.uint8)


def by_pillow(images_NHWC, height, width, method):
    def channel(image_HW):
        image = Image.fromarray(image_HW.astype(np.float32))
        return np.array(image.resize((width, height), RESAMPLING[method]))

    return np.stack([np.stack([channel(c) for c in np.moveaxis(i, -1, 0)], axis=-1) for i in images_NHWC])


@pytest.mark.parametrize("method", RESAMPLING)
@pytest.mark.parametrize(
    ("before", "after"), [(32, 224), (32, 128), (64, 48), (33, 47), (47, 33), (97, 5), (32, 32), (1, 3), (3, 1)]
)
def test_pixels_equal_pillow(before, after, method):
    images_NHWC = images(before, before)
    resized = jax.jit(functools.partial(resize, size=after, method=method))(images_NHWC)
    assert resized.dtype == jnp.float32
    np.testing.assert_allclose(resized, by_pillow(images_NHWC, after, after, method), atol=TOLERANCE)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_shapes_and_channels(channels):
    images_NHWC = images(20, 45, channels)
    np.testing.assert_allclose(resize(images_NHWC, size=32), by_pillow(images_NHWC, 32, 32, "bicubic"), atol=TOLERANCE)


def test_the_same_size_changes_nothing():
    images_NHWC = images(32, 32)
    np.testing.assert_array_equal(resize(images_NHWC, size=32), images_NHWC)


@pytest.mark.parametrize("method", RESAMPLING)
def test_pixels_outside_the_part_have_no_weight(method):
    weights_OI = np.array(resampling_weights(jnp.arange(12), out_size=12, in_size=10, method=method, start=3, length=5))
    assert not weights_OI[:, [0, 1, 2, 8, 9]].any()
    full = resampling_weights(jnp.arange(12), out_size=12, in_size=5, method=method)
    np.testing.assert_array_equal(weights_OI[:, 3:8], full)
    np.testing.assert_allclose(weights_OI.sum(axis=1), 1, atol=1e-6)
