"""The shared layers against Flax, XLA and NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.models.layers import Conv, average_pool, convolve, max_pool, overlapping_max_pool, standardized

pytestmark = pytest.mark.slow


def plain_convolve(images_NHWC, kernel_HWIO, *, stride):
    half = len(kernel_HWIO) // 2
    return lax.conv_general_dilated(
        images_NHWC,
        kernel_HWIO,
        (stride, stride),
        ((half, half), (half, half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def relative_error(value, expected):
    return np.abs(value - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "size, height, width",
    [
        *((1, 1, 1), (1, 4, 5), (1, 97, 97)),
        *((3, 1, 1), (3, 1, 2), (3, 2, 2), (3, 3, 2), (3, 4, 4), (3, 5, 3), (3, 7, 8), (3, 8, 8), (3, 97, 97)),
        *((7, 12, 12), (7, 13, 16), (7, 97, 97)),
    ],
)
def test_convolution_and_both_gradients_equal_the_plain_ones(size, height, width, stride):
    inputs, outputs, batch = 3, 5, 2
    random = np.random.default_rng(0)
    images_NHWC = random.normal(size=(batch, height, width, inputs)).astype(np.float32)
    kernel_HWIO = random.normal(size=(size, size, inputs, outputs)).astype(np.float32)
    sides = [-(-side // stride) for side in (height, width)]
    gradient_NHWC = random.normal(size=(batch, *sides, outputs)).astype(np.float32)

    @jax.jit
    def both(images, kernel, gradient):
        results = []
        for form in (convolve, plain_convolve):
            output, pull_back = jax.vjp(lambda x, k, form=form: form(x, k, stride=stride), images, kernel)
            results.append((output, *pull_back(gradient)))
        return results

    fast, plain = jax.device_get(both(images_NHWC, kernel_HWIO, gradient_NHWC))
    for value, expected in zip(fast, plain, strict=True):
        assert value.shape == expected.shape
        assert relative_error(value, expected) < 1e-5


def test_standardized_filters_have_mean_0_and_variance_1():
    kernel_HWIO = np.random.default_rng(0).normal(3.0, 0.1, (3, 3, 4, 6)).astype(np.float32)
    filters = np.asarray(standardized(kernel_HWIO), np.float64)
    exact = kernel_HWIO.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-10)
    np.testing.assert_allclose(filters, expected, atol=1e-4)

    images_NHWC = np.random.default_rng(1).normal(size=(2, 5, 5, 4)).astype(np.float32)
    output_NHWC = Conv(6, size=3, standardize=True).apply({"params": {"kernel": kernel_HWIO}}, images_NHWC)
    assert relative_error(output_NHWC, plain_convolve(images_NHWC, expected.astype(np.float32), stride=1)) < 1e-4


def test_the_bias_is_added_to_each_channel():
    images_NHWC = np.ones((1, 2, 2, 3), np.float32)
    bias_C = np.arange(4, dtype=np.float32)
    params = {"kernel": np.zeros((1, 1, 3, 4), np.float32), "bias": bias_C}
    output_NHWC = Conv(4, size=1, use_bias=True).apply({"params": params}, images_NHWC)
    np.testing.assert_array_equal(output_NHWC, np.broadcast_to(bias_C, (1, 2, 2, 4)))


@pytest.mark.parametrize("size, side", [(2, 8), (2, 7), (3, 8)])
def test_max_pool_equals_that_of_flax(size, side):
    # A permutation has no ties, where the two gradients differ.
    numbers = np.random.default_rng(0).permutation(4 * side * (side + 1) * 3)
    images_NHWC = jnp.asarray(numbers.reshape(4, side, side + 1, 3), jnp.float32)

    def flax_pool(images_NHWC):
        return nn.max_pool(images_NHWC, (size, size), (size, size))

    def weighted(pool, images_NHWC):
        pooled = pool(images_NHWC)
        return (pooled * jnp.arange(pooled.size).reshape(pooled.shape)).sum()

    def ours(images_NHWC):
        return max_pool(images_NHWC, size)

    assert ours(images_NHWC).shape == (4, side // size, (side + 1) // size, 3)
    np.testing.assert_array_equal(ours(images_NHWC), flax_pool(images_NHWC))
    gradients = [jax.grad(weighted, argnums=1)(pool, images_NHWC) for pool in (ours, flax_pool)]
    np.testing.assert_array_equal(*gradients)


def test_tied_pixels_share_the_gradient():
    gradient_NHWC = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient_NHWC, np.full((1, 2, 2, 1), 0.25))


@pytest.mark.parametrize("pad_with", [0.0, -np.inf])
@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (5, 5), (1, 2)])
def test_overlapping_max_pool_and_its_gradient_equal_those_of_flax(height, width, pad_with):
    # A permutation has no ties, where the gradients differ; most values are negative, so that zeros at the border win.
    numbers = np.random.default_rng(0).permutation(2 * height * width * 3) - 1.8 * height * width * 3 - 0.5
    images_NHWC = jnp.asarray(numbers.reshape(2, height, width, 3), jnp.float32)

    def flax_pool(images_NHWC):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return nn.max_pool(jnp.pad(images_NHWC, padding, constant_values=pad_with), (3, 3), (2, 2))

    def ours(images_NHWC):
        return overlapping_max_pool(images_NHWC, pad_with=pad_with)

    def weighted(pool, images_NHWC):
        pooled = pool(images_NHWC)
        return (pooled * jnp.arange(1, pooled.size + 1).reshape(pooled.shape)).sum()

    assert ours(images_NHWC).shape == (2, (height + 1) // 2, (width + 1) // 2, 3)
    np.testing.assert_array_equal(ours(images_NHWC), flax_pool(images_NHWC))
    gradients = [jax.grad(weighted, argnums=1)(pool, images_NHWC) for pool in (ours, flax_pool)]
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("side", [3, 4, 5, 16, 17, 49])
def test_pooling_that_rounds_up_as_caffe_does(side):
    images_NHWC = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    starts = range(0, 2 * -(-(side - 3) // 2) + 1, 2)  # Caffe: ceil((side - 3) / 2) + 1 windows
    expected_NHWC = [[images_NHWC[:, r : r + 3, c : c + 3].max(axis=(1, 2)) for c in starts] for r in starts]
    pooled_NHWC = overlapping_max_pool(images_NHWC, padding=(0, 1), pad_with=-np.inf)
    np.testing.assert_array_equal(pooled_NHWC, np.transpose(expected_NHWC, (2, 0, 1, 3)))


@pytest.mark.parametrize("height, width", [(4, 6), (5, 4), (7, 7), (1, 1)])
def test_average_pool_ignores_the_padding(height, width):
    images_NHWC = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    rows, columns = -(-height // 2), -(-width // 2)
    expected_NHWC = [
        [images_NHWC[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean(axis=(1, 2)) for c in range(columns)]
        for r in range(rows)
    ]
    np.testing.assert_allclose(average_pool(images_NHWC), np.transpose(expected_NHWC, (2, 0, 1, 3)), atol=1e-6)
