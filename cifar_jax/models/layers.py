"""Layers that the models share. On CPU some of them compute in the faster forms of `xla_cpu.py`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.devices import traced_platform
from cifar_jax.models import xla_cpu


class Conv(nn.Module):
    """A convolution padded by `size // 2` pixels; with an even size by one pixel less at the top and left.

    Attributes:
        features: output channels.
        size: side of the square kernel; the parameter `kernel` is float32 (size, size, in, out).
        stride: in both directions.
        use_bias: add the parameter `bias`.
        standardize: filters are brought to mean 0 and variance 1 before use (Qiao et al. 2019, Weight standardization).
        largest_by_taps: on CPU, 3x3 convolutions with at most this many output pixels use `xla_cpu.convolve_by_taps`.
        dtype: of the computation.
        kernel_init: initial values; a function of (key, shape, dtype).
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    standardize: bool = False
    largest_by_taps: int = 16
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        shape = (self.size, self.size, images_NHWC.shape[-1], self.features)
        kernel_HWIO = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.standardize:
            kernel_HWIO = standardized(kernel_HWIO)
        images_NHWC, kernel_HWIO = images_NHWC.astype(self.dtype), kernel_HWIO.astype(self.dtype)
        output_NHWC = convolve(images_NHWC, kernel_HWIO, stride=self.stride, largest_by_taps=self.largest_by_taps)
        if self.use_bias:
            output_NHWC += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return output_NHWC


def standardized(kernel_HWIO: jax.Array) -> jax.Array:
    """Filters of mean 0 and variance 1."""
    centered_HWIO = kernel_HWIO - kernel_HWIO.mean(axis=(0, 1, 2))
    return centered_HWIO * lax.rsqrt(jnp.square(centered_HWIO).mean(axis=(0, 1, 2)) + 1e-10)  # epsilon as in BiT


def convolve(images_NHWC: jax.Array, kernel_HWIO: jax.Array, *, stride: int, largest_by_taps: int = 16) -> jax.Array:
    """Convolution with a square kernel, padded by (size - 1) // 2 pixels at the top and left, size // 2 elsewhere."""
    size = len(kernel_HWIO)
    height, width = (-(-side // stride) for side in images_NHWC.shape[1:3])
    is_small = height * width <= largest_by_taps
    padding = (((size - 1) // 2, size // 2),) * 2
    on_cpu = traced_platform() == "cpu"
    if on_cpu and (size == 1 or (size == 3 and (stride > 1 or is_small))):
        return xla_cpu.convolve_by_taps(images_NHWC, kernel_HWIO, stride)
    if on_cpu and stride == 1:
        return xla_cpu.convolve(images_NHWC, kernel_HWIO, padding)
    return lax.conv_general_dilated(
        images_NHWC, kernel_HWIO, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Bias(nn.Module):
    """Adds a trained constant to each channel."""

    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        bias_C = self.param("bias", self.bias_init, (x_NHWC.shape[-1],))
        return xla_cpu.add_bias(x_NHWC, bias_C.astype(x_NHWC.dtype))


def max_pool(images_NHWC: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over windows of `size` x `size` without overlap; leftover rows and columns are dropped.

    Tied pixels share the gradient (`nn.max_pool` gives it to the first).
    """
    height, width = images_NHWC.shape[1:3]
    return xla_cpu.max_of_blocks(images_NHWC[:, : height // size * size, : width // size * size], size)


def overlapping_max_pool(images_NHWC: jax.Array, *, padding: tuple[int, int] = (1, 1), pad_with: float) -> jax.Array:
    """Maximum over windows of 3x3, stride 2; `padding` in pixels before and after, of the value `pad_with`.

    With (0, 1) it is Caffe's pooling without padding: it rounds the output's size up, and cuts the last window off.
    """
    padded_NHWC = jnp.pad(images_NHWC, ((0, 0), padding, padding, (0, 0)), constant_values=pad_with)
    if traced_platform() == "cpu":
        return xla_cpu.max_of_slices(padded_NHWC, size=3, stride=2)
    return nn.max_pool(padded_NHWC, window_shape=(3, 3), strides=(2, 2))


def average_pool(images_NHWC: jax.Array) -> jax.Array:
    """Mean over windows of 2x2 without overlap; at an odd side the last window averages only existing pixels."""
    padding = tuple((0, side % 2) for side in images_NHWC.shape[1:3])
    return nn.avg_pool(images_NHWC, window_shape=(2, 2), strides=(2, 2), padding=padding, count_include_pad=False)
