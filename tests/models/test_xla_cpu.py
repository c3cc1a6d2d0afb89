"""The forms for XLA:CPU against XLA's own, and the layouts in the compiled program."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.models import xla_cpu
from cifar_jax.models.cnn import CNN
from cifar_jax.models.layers import Conv, convolve

pytestmark = pytest.mark.slow

FAST = "b01f_01io->b01f"
ONLY_ON_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu",
    reason="reads layouts in the program that XLA:CPU compiles; other devices use XLA's own operations",
)


def plain_convolve(images_NHWC, kernel_HWIO, padding):
    return lax.conv_general_dilated(
        images_NHWC, kernel_HWIO, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def relative_error(value, expected):
    return np.abs(value - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "batch, size, side, channels",
    [(1, 3, 8, (3, 5)), (7, 2, 8, (3, 5)), (30, 3, 16, (4, 6)), (32, 2, 33, (3, 4)), (34, 3, 16, (5, 3))],
)
def test_convolution_and_both_gradients_equal_the_plain_ones(batch, size, side, channels):
    inputs, outputs = channels
    low, high = (size - 1) // 2, size // 2
    padding = ((low, high), (low, high))
    keys = jax.random.split(jax.random.key(0), 3)
    images_NHWC = jax.random.normal(keys[0], (batch, side, side - 1, inputs))
    kernel_HWIO = jax.random.normal(keys[1], (size, size, inputs, outputs))
    gradient_NHWC = jax.random.normal(keys[2], (batch, side, side - 1, outputs))

    @jax.jit
    def both(images, kernel, gradient):
        results = []
        for form in (xla_cpu.convolve, plain_convolve):
            output, pull_back = jax.vjp(lambda x, k, form=form: form(x, k, padding), images, kernel)
            results.append((output, *pull_back(gradient)))
        return results

    fast, plain = jax.device_get(both(images_NHWC, kernel_HWIO, gradient_NHWC))
    for value, expected in zip(fast, plain, strict=True):
        assert value.shape == expected.shape
        assert relative_error(value, expected) < 1e-5


@ONLY_ON_CPU
@pytest.mark.parametrize("size, side, stride", [(1, 8, 2), (3, 2, 1), (3, 4, 1), (3, 16, 2)])
def test_convolutions_that_are_slow_on_cpu_are_computed_by_taps(size, side, stride):
    """And so are their gradients."""

    def loss(images_NHWC, kernel_HWIO):
        return (convolve(images_NHWC, kernel_HWIO, stride=stride) ** 2).sum()

    arguments = jnp.ones((2, side, side, 8)), jnp.ones((size, size, 8, 8))
    assert " convolution(" not in jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("batch, at_most, expected", [(12, 4, 4), (10, 4, 2), (7, 4, 1), (3, 100, 3), (5, 0, 1)])
def test_a_batch_is_cut_into_equal_slices(batch, at_most, expected):
    assert xla_cpu._slice_count(batch, at_most) == expected


def test_gelu_and_its_gradient_equal_the_formula_in_float64():
    x = np.concatenate([np.linspace(-8, 8, 1001), [-50, 0, 50]]).astype(np.float32)
    step = 1e-20  # into the complex plane: the derivative without a difference that would round
    stepped = x.astype(np.complex128) + step * 1j
    exact = 0.5 * stepped * (1 + np.tanh(np.sqrt(2 / np.pi) * (stepped + 0.044715 * stepped**3)))
    weights = np.arange(x.size)
    gradient = jax.grad(lambda x: (xla_cpu.gelu(x) * weights).sum())(jnp.asarray(x))
    np.testing.assert_allclose(xla_cpu.gelu(x), exact.real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, exact.imag / step * weights, rtol=1e-5, atol=1e-3)  # of gradients up to 1,000


def test_add_bias_and_both_gradients_equal_the_plain_sum():
    generator = np.random.default_rng(0)
    x_NHWC, weights_NHWC = jnp.asarray(generator.normal(size=(2, 5, 6, 7, 4)), jnp.float32)
    bias_C = jnp.asarray(generator.normal(size=4), jnp.float32)

    def weighted(add, x_NHWC, bias_C):
        return (add(x_NHWC, bias_C) * weights_NHWC).sum()

    fast, plain = (jax.grad(weighted, argnums=(1, 2))(add, x_NHWC, bias_C) for add in (xla_cpu.add_bias, jnp.add))
    np.testing.assert_array_equal(xla_cpu.add_bias(x_NHWC, bias_C), x_NHWC + bias_C)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), fast, plain)


@ONLY_ON_CPU
def test_training_keeps_little_of_the_forward_pass():
    """Temporaries of one gradient of the recipe's network: 1.07 MB per image; with `jax.grad`'s own GELU 1.64."""
    images_NHWC = jax.ShapeDtypeStruct((256, 32, 32, 3), jnp.float32)
    model = CNN(num_classes=10, widths=(48, 128, 192))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images_NHWC)

    def loss(params, batch_stats, images_NHWC):
        return model.apply({"params": params, "batch_stats": batch_stats}, images_NHWC, train=False).sum()

    program = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"], images_NHWC).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1.3e6 * 256


def convolutions_of_training_in_a_scan(monkeypatch, convolve) -> set[str]:
    """The dim_labels of all convolutions, in every computation, of gradient descent on a stack of `Conv`."""
    monkeypatch.setattr(xla_cpu, "convolve", convolve)
    stack = nn.Sequential([Conv(8), Conv(12, size=2), Conv(16)])
    images_NHWC = jnp.ones((32, 16, 16, 3))
    params = stack.init(jax.random.key(0), images_NHWC)

    def step(params, _):
        gradients = jax.grad(lambda p: (stack.apply(p, images_NHWC) ** 2).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), None

    program = jax.jit(lambda params: lax.scan(step, params, length=3)[0]).lower(params).compile().as_text()
    dim_labels = re.findall(r" convolution\(.*dim_labels=([^,\s]+)", program)
    assert len(dim_labels) >= 8, "at least three forward, three for kernels and two for images"
    assert " while(" in program
    return set(dim_labels)


@ONLY_ON_CPU
def test_convolutions_in_a_scan_all_have_the_fast_layout(monkeypatch):
    """Other layouts run as naive loops, 75 times slower."""
    assert convolutions_of_training_in_a_scan(monkeypatch, xla_cpu.convolve) == {FAST}


@ONLY_ON_CPU
def test_plain_gradients_in_a_scan_have_slow_layouts(monkeypatch):
    """The control of the test above. If it fails, XLA has been fixed and `xla_cpu.py` can be simpler."""
    assert convolutions_of_training_in_a_scan(monkeypatch, plain_convolve) - {FAST}
