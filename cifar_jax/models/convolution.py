"""Convolutions and pooling of the ResNet, in the forms that are fast on the device at hand.

On accelerators these are XLA's own operations. On CPU the forms below give the same numbers (to rounding) faster;
measured with jax 0.10.2 on two cores, float32:

- A convolution as a sum over its taps, each a matrix product on the pixels that the tap meets. Products with padding
  are left out, so that on a map of 1x1 a 3x3 convolution is the product with its center. XLA's 3x3 convolution is 90
  times slower on 2x2 maps (512 channels, 32 images: 158 ms, taps 1.7 ms), 20 times on 1x1; on 4x4 it is 1.7 times
  slower, on 8x8 1.4 times faster. 1x1 convolutions run at 140 to 270 GFLOP/s as products, at 100 to 230 as such.
- Taps also for strided 3x3 convolutions, whose gradient for the images XLA computes up to 55 times slower.
- A maximum over strided slices: its gradient is 3 to 7 times faster than that of `reduce_window`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.models import layers


class Conv(nn.Module):
    """A convolution with symmetric padding of `size // 2` pixels.

    Attributes:
        features: output channels.
        size: odd side of the square kernel.
        stride: in both directions.
        use_bias: add the parameter `bias`; the parameter `kernel` is float32 (size, size, in, out).
        standardize: filters are brought to mean 0 and variance 1 before use (Qiao et al. 2019, Weight standardization).
        dtype: of the computation.
    """

    features: int
    size: int
    stride: int = 1
    use_bias: bool = False
    standardize: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        shape = (self.size, self.size, images_NHWC.shape[-1], self.features)
        kernel_HWIO = self.param("kernel", nn.initializers.variance_scaling(2.0, "fan_out", "normal"), shape)
        if self.standardize:
            kernel_HWIO = _standardized(kernel_HWIO)
        output_NHWC = convolve(images_NHWC.astype(self.dtype), kernel_HWIO.astype(self.dtype), stride=self.stride)
        if self.use_bias:
            output_NHWC += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return output_NHWC


def _standardized(kernel_HWIO):
    centerd_HWIO = kernel_HWIO - kernel_HWIO.mean(axis=(0, 1, 2))
    return centerd_HWIO * lax.rsqrt(jnp.square(centerd_HWIO).mean(axis=(0, 1, 2)) + 1e-10)  # epsilon as in BiT


def convolve(images_NHWC: jax.Array, kernel_HWIO: jax.Array, *, stride: int) -> jax.Array:
    """Convolution with a square kernel of odd side and symmetric padding of half of it, in the fast form."""
    size = len(kernel_HWIO)
    height, width = (-(-side // stride) for side in images_NHWC.shape[1:3])
    if layers.on_cpu() and (size == 1 or (size == 3 and (stride > 1 or height * width <= 16))):
        return _sum_over_taps(images_NHWC, kernel_HWIO, stride)
    padding = ((size // 2, size // 2),) * 2
    if stride == 1:
        return layers.convolve(images_NHWC, kernel_HWIO, padding)
    return lax.conv_general_dilated(
        images_NHWC, kernel_HWIO, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _sum_over_taps(images_NHWC, kernel_HWIO, stride):
    batch, *sides, channels = images_NHWC.shape
    size = len(kernel_HWIO)
    rows, columns = ([_reach(tap - size // 2, side, stride) for tap in range(size)] for side in sides)
    total_NHWC = 0.0
    for kernels_WIO, (images_rows, output_rows, row_border) in zip(kernel_HWIO, rows, strict=True):
        for kernel_IO, (images_columns, output_columns, column_border) in zip(kernels_WIO, columns, strict=True):
            if output_rows and output_columns:
                pixels_PI = images_NHWC[:, images_rows, images_columns].reshape(-1, channels)
                product_NHWC = (pixels_PI @ kernel_IO).reshape(batch, output_rows, output_columns, -1)
                total_NHWC += jnp.pad(product_NHWC, ((0, 0), row_border, column_border, (0, 0)))
    return total_NHWC


def _reach(offset: int, side: int, stride: int) -> tuple[slice, int, tuple[int, int]]:
    """What a tap meets along one side: the pixels, their number, and how many of the output it misses at each end."""
    outputs = -(-side // stride)
    first = max(0, -(offset // stride))  # the first output whose pixel, first * stride + offset, is in the image
    stop = max(first, min(outputs, (side - 1 - offset) // stride + 1))
    pixels = slice(first * stride + offset, (stop - 1) * stride + offset + 1, stride)
    return pixels, stop - first, (first, outputs - stop)


def max_pool(images_NHWC: jax.Array, *, pad_with: float) -> jax.Array:
    """Maximum over windows of 3x3, stride 2, after one pixel of padding of the given value on each side."""
    padded_NHWC = jnp.pad(images_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=pad_with)
    if not layers.on_cpu():
        return nn.max_pool(padded_NHWC, window_shape=(3, 3), strides=(2, 2))
    rows, columns = (side - 2 for side in padded_NHWC.shape[1:3])
    over_rows = functools.reduce(jnp.maximum, (padded_NHWC[:, i : i + rows : 2] for i in range(3)))
    return functools.reduce(jnp.maximum, (over_rows[:, :, i : i + columns : 2] for i in range(3)))


def average_pool(images_NHWC: jax.Array) -> jax.Array:
    """Mean over windows of 2x2 without overlap; of an odd side the last window holds only what is there."""
    padding = tuple((0, side % 2) for side in images_NHWC.shape[1:3])
    return nn.avg_pool(images_NHWC, window_shape=(2, 2), strides=(2, 2), padding=padding, count_include_pad=False)
