"""Operations rewritten because XLA:CPU compiles their plain form to slow code; the results agree to rounding.

Measured with jax 0.10.2 on two cores, float32 (`benchmarks/`):

- The kernel gradient of a convolution, as one operation over a batch of 128, reaches a tenth of the machine's matrix
  throughput; summed over slices of the batch that fit the cache it is 3 to 5 times faster.
- XLA:CPU gives convolutions its fast layout in the entry computation only. Inside a loop (`lax.scan`) the gradients
  that `jax.grad` derives run as naive loops, 75 times slower. Written out with explicit transposes they have the fast
  layout everywhere (`tests/models/test_xla_cpu.py` checks the compiled program).
- Convolutions on small maps are faster as a sum over taps, each a matrix product over the pixels that the tap meets,
  without the padding. XLA's 3x3 convolution is 90 times slower on 2x2 maps (512 channels, 32 images: 158 ms, taps
  1.7 ms), 20 times on 1x1 and 1.7 times on 4x4; on 8x8 it is 1.4 times faster. 1x1 convolutions run at 140 to 270
  GFLOP/s as matrix products, at 100 to 230 as convolutions.
- Strided 3x3 convolutions are summed over taps too: XLA's gradient for their images is up to 55 times slower.
- The gradient of `reduce_window` pooling is 8 times slower than that of a maximum over slices, and that one, as
  `jax.grad` derives it, takes five passes over the activations; written out it takes one.

A convolution with at most 64 output channels runs on one core: `devices.py` makes each core a device.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax


def _convolve(images_NHWC, kernel_HWIO, padding):
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images_NHWC, kernel_HWIO, (1, 1), padding, dimension_numbers=layouts)


def _slice_count(batch: int, at_most: int) -> int:
    """The number of equal slices that a batch is cut into: its greatest divisor that is not above `at_most`."""
    return next(slices for slices in range(max(1, min(at_most, batch)), 0, -1) if batch % slices == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images_NHWC: jax.Array, kernel_HWIO: jax.Array, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    """Convolution of stride 1 with explicit `padding` ((top, bottom), (left, right)) and fast gradients."""
    return _convolve(images_NHWC, kernel_HWIO, padding)


def _convolve_backward(padding, residuals, gradient_NHWC):
    images_NHWC, kernel_HWIO = residuals
    flipped_HWOI = kernel_HWIO[::-1, ::-1].transpose(0, 1, 3, 2)
    sides = kernel_HWIO.shape[:2]
    border = tuple((side - 1 - low, side - 1 - high) for side, (low, high) in zip(sides, padding, strict=True))
    images_gradient_NHWC = _convolve(gradient_NHWC, flipped_HWOI, border)

    batch, height = images_NHWC.shape[:2]
    slices = _slice_count(batch, batch * height // 256)  # 8 images of 32 px, 16 of 16 px: the fastest, within 10 %

    def add_slice(total_IHWO, parts):
        images_NHWC, gradient_NHWC = parts
        gradient_HWNO = gradient_NHWC.transpose(1, 2, 0, 3)
        return total_IHWO + _convolve(images_NHWC.transpose(3, 1, 2, 0), gradient_HWNO, padding), None

    # A loop instead of an unrolled sum: the CNN's step compiles in 5.8 s instead of 8.0.
    parts = jax.tree.map(lambda a: a.reshape(slices, batch // slices, *a.shape[1:]), (images_NHWC, gradient_NHWC))
    zeros_IHWO = jnp.zeros_like(kernel_HWIO.transpose(2, 0, 1, 3))
    total_IHWO, _ = lax.scan(add_slice, zeros_IHWO, parts)
    return images_gradient_NHWC, total_IHWO.transpose(1, 2, 0, 3)


convolve.defvjp(
    lambda images, kernel, padding: (_convolve(images, kernel, padding), (images, kernel)), _convolve_backward
)


def convolve_by_taps(images_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    """Convolution with a square kernel of odd size, padded by half of it, as one matrix product per tap."""
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
    """The pixels that a tap meets along one side, their number, and how many outputs it misses at each end."""
    outputs = -(-side // stride)
    first = max(0, -(offset // stride))  # the first output whose pixel, first * stride + offset, is in the image
    stop = max(first, min(outputs, (side - 1 - offset) // stride + 1))
    pixels = slice(first * stride + offset, (stop - 1) * stride + offset + 1, stride)
    return pixels, stop - first, (first, outputs - stop)


def max_of_slices(images_NHWC: jax.Array, size: int, stride: int) -> jax.Array:
    """Max-pooling without padding; its gradient is 3 to 7 times faster than that of `reduce_window`."""
    rows, columns = (side - size + 1 for side in images_NHWC.shape[1:3])
    over_rows = functools.reduce(jnp.maximum, (images_NHWC[:, i : i + rows : stride] for i in range(size)))
    return functools.reduce(jnp.maximum, (over_rows[:, :, i : i + columns : stride] for i in range(size)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_of_blocks(images_NHWC: jax.Array, size: int) -> jax.Array:
    """Maximum over blocks of `size` x `size` that tile the image; tied pixels share the gradient."""
    # Rows first, then neighbors within a row: 1.15 times the images per second of one `windows.max(axis=(2, 4))`.
    batch, height, width, channels = images_NHWC.shape
    windows = images_NHWC.reshape(batch, height // size, size, width // size, size * channels)
    over_rows = functools.reduce(jnp.maximum, (windows[:, :, i] for i in range(size)))
    return functools.reduce(jnp.maximum, jnp.split(over_rows, size, axis=-1))


def _max_of_blocks_forward(images_NHWC, size):
    pooled_NHWC = max_of_blocks(images_NHWC, size)
    return pooled_NHWC, (images_NHWC, pooled_NHWC)


def _max_of_blocks_backward(size, residuals, gradient_NHWC):
    images_NHWC, pooled_NHWC = residuals
    batch, height, width, channels = images_NHWC.shape
    windows = images_NHWC.reshape(batch, height // size, size, width // size, size, channels)
    is_greatest = windows == pooled_NHWC[:, :, None, :, None]
    # Counted by slices: a sum over two axes would first write the comparison out as float32.
    places = itertools.product(range(size), repeat=2)
    ties_NHWC = sum(is_greatest[:, :, row, :, column].astype(gradient_NHWC.dtype) for row, column in places)
    share_NHWC = gradient_NHWC / ties_NHWC
    return (jnp.where(is_greatest, share_NHWC[:, :, None, :, None], 0).reshape(images_NHWC.shape),)


max_of_blocks.defvjp(_max_of_blocks_forward, _max_of_blocks_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The Gaussian error linear unit in its tanh form (Hendrycks & Gimpel 2016), as `jax.nn.gelu` computes it.

    The gradient is recomputed from `x` alone; `jax.grad` would keep three more arrays of that size.
    """
    return jax.nn.gelu(x, approximate=True)


def _gelu_backward(x, gradient):
    x, gradient = lax.optimization_barrier((x, gradient))  # otherwise XLA still keeps the tanh of the forward pass
    scale = (2 / jnp.pi) ** 0.5
    tanh = jnp.tanh(scale * (x + 0.044715 * x**3))
    slope = scale * (1 + 3 * 0.044715 * x**2)
    return (gradient * 0.5 * (1 + tanh + x * (1 - tanh**2) * slope),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def add_bias(x_NHWC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """`x_NHWC + bias_C`, with the gradient of the bias as a matrix product.

    XLA:CPU fuses a plain sum with all before it and materializes each constant in it: 100 MB for the GELU of the first
    layer's 24 channels and 256 images.
    """
    return x_NHWC + bias_C


def _add_bias_backward(_, gradient_NHWC):
    rows_MC = gradient_NHWC.reshape(-1, gradient_NHWC.shape[-1])
    ones_M = jnp.ones(len(rows_MC), rows_MC.dtype)
    return gradient_NHWC, jnp.dot(ones_M, rows_MC, precision=lax.Precision.HIGHEST)


add_bias.defvjp(lambda x_NHWC, bias_C: (add_bias(x_NHWC, bias_C), None), _add_bias_backward)
