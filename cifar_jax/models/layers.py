"""Convolution and pooling in the forms that are fast on the device at hand.

On accelerators these are XLA's own operations. On CPU three of XLA's defaults are slow, and the forms below give the
same numbers (to rounding) faster; measured with jax 0.10.2 on two cores, float32 (`benchmarks/`):

- The gradient with respect to the kernel, as one operation over a batch of 128, reaches a tenth of the machine's
  matrix throughput; summed over slices of the batch that fit the cache it is 3 to 5 times faster.
- XLA:CPU brings convolutions into its fast layout in the entry computation only. Inside a loop (`lax.scan`) the
  gradients as `jax.grad` writes them run as naive loops, 75 times slower. Written out with explicit transposes, as
  here, they have the fast layout everywhere (`tests/models/test_layers.py` holds this on the compiled program).
- The gradient of `reduce_window` pooling is 8 times slower than that of a maximum over slices, and that one, as
  `jax.grad` writes it, takes five passes over the activations; written out it takes one.

A convolution with at most 64 output channels runs on one core: `mesh.py` makes each core a device.
"""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_forms() -> Iterator[None]:
    """What is traced within has XLA's own operations even on CPU: for programs that leave this machine."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def on_cpu() -> bool:
    """Whether to take the forms that are fast on CPU."""
    return jax.default_backend() == "cpu" and not _PORTABLE.get()


def _convolve(images_NHWC, kernel_HWIO, padding):
    return lax.conv_general_dilated(images_NHWC, kernel_HWIO, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _sliced(batch: int, at_most: int) -> int:
    """Into how many equal slices a batch is cut: the greatest divisor that is not above `at_most`."""
    return next(slices for slices in range(max(1, min(at_most, batch)), 0, -1) if batch % slices == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_convolve(images_NHWC, kernel_HWIO, padding):
    return _convolve(images_NHWC, kernel_HWIO, padding)


def _cpu_convolve_forward(images_NHWC, kernel_HWIO, padding):
    return _convolve(images_NHWC, kernel_HWIO, padding), (images_NHWC, kernel_HWIO)


def _cpu_convolve_backward(padding, residuals, gradient_NHWC):
    images_NHWC, kernel_HWIO = residuals
    flipped_HWOI = kernel_HWIO[::-1, ::-1].transpose(0, 1, 3, 2)
    sides = kernel_HWIO.shape[:2]
    border = tuple((side - 1 - low, side - 1 - high) for side, (low, high) in zip(sides, padding, strict=True))
    images_gradient_NHWC = _convolve(gradient_NHWC, flipped_HWOI, border)

    batch, height = images_NHWC.shape[:2]
    slices = _sliced(batch, batch * height // 256)  # 8 images of 32 px, 16 of 16 px: the fastest, within 10 %

    def add_slice(total_IHWO, parts):
        images_NHWC, gradient_NHWC = parts
        gradient_HWNO = gradient_NHWC.transpose(1, 2, 0, 3)
        return total_IHWO + _convolve(images_NHWC.transpose(3, 1, 2, 0), gradient_HWNO, padding), None

    # A loop, and not a sum written out: the CNN's step compiles in 5.8 s instead of 8.0.
    parts = jax.tree.map(lambda a: a.reshape(slices, batch // slices, *a.shape[1:]), (images_NHWC, gradient_NHWC))
    zeros_IHWO = jnp.zeros_like(kernel_HWIO.transpose(2, 0, 1, 3))
    total_IHWO, _ = lax.scan(add_slice, zeros_IHWO, parts)
    return images_gradient_NHWC, total_IHWO.transpose(1, 2, 0, 3)


_cpu_convolve.defvjp(_cpu_convolve_forward, _cpu_convolve_backward)


def convolve(images_NHWC: jax.Array, kernel_HWIO: jax.Array, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    """Convolution of stride 1 with explicit `padding` ((top, bottom), (left, right)), in the fast form."""
    if on_cpu():
        return _cpu_convolve(images_NHWC, kernel_HWIO, padding)
    return _convolve(images_NHWC, kernel_HWIO, padding)


class Conv(nn.Module):
    """A convolution of stride 1 without bias: the parameter `kernel`, float32 (height, width, in, out).

    Attributes:
        features: output channels.
        size: side of the square kernel.
        dtype: of the computation.
        kernel_init: initial values; a function of (key, shape, dtype).
    """

    features: int
    size: int = 3
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        shape = (self.size, self.size, images_NHWC.shape[-1], self.features)
        kernel_HWIO = self.param("kernel", self.kernel_init, shape, jnp.float32)
        low, high = (self.size - 1) // 2, self.size // 2
        return convolve(images_NHWC.astype(self.dtype), kernel_HWIO.astype(self.dtype), ((low, high), (low, high)))


def max_pool(images_NHWC: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over windows of `size` x `size` without overlap; rows and columns left over are dropped.

    Where several pixels of a window are equal and greatest, they share the gradient (`reduce_window` gives it to the
    first one).
    """
    height, width = images_NHWC.shape[1:3]
    return _max_pool(images_NHWC[:, : height // size * size, : width // size * size], size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(images_NHWC, size):
    # Rows first, then neighbors within a row, as maxima of slices: 1.15 times the images a second of one
    # `windows.max(axis=(2, 4))` in the whole training step.
    batch, height, width, channels = images_NHWC.shape
    windows = images_NHWC.reshape(batch, height // size, size, width // size, size * channels)
    over_rows = functools.reduce(jnp.maximum, (windows[:, :, i] for i in range(size)))
    return functools.reduce(jnp.maximum, jnp.split(over_rows, size, axis=-1))


def _max_pool_forward(images_NHWC, size):
    pooled_NHWC = _max_pool(images_NHWC, size)
    return pooled_NHWC, (images_NHWC, pooled_NHWC)


def _max_pool_backward(size, residuals, gradient_NHWC):
    images_NHWC, pooled_NHWC = residuals
    batch, height, width, channels = images_NHWC.shape
    windows = images_NHWC.reshape(batch, height // size, size, width // size, size, channels)
    is_greatest = windows == pooled_NHWC[:, :, None, :, None]
    # Counted by slices: a sum over two axes would first write the comparison out as float32.
    places = itertools.product(range(size), repeat=2)
    ties_NHWC = sum(is_greatest[:, :, row, :, column].astype(gradient_NHWC.dtype) for row, column in places)
    share_NHWC = gradient_NHWC / ties_NHWC
    return (jnp.where(is_greatest, share_NHWC[:, :, None, :, None], 0).reshape(images_NHWC.shape),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The Gaussian error linear unit in its tanh form (Hendrycks & Gimpel 2016), as `jax.nn.gelu` computes it.

    The gradient is computed from `x` alone; as `jax.grad` writes it, three more arrays of that size wait for it.
    """
    return jax.nn.gelu(x, approximate=True)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, gradient):
    x, gradient = lax.optimization_barrier((x, gradient))  # else the tanh of the forward pass is kept all the same
    scale = (2 / jnp.pi) ** 0.5
    tanh = jnp.tanh(scale * (x + 0.044715 * x**3))
    slope = scale * (1 + 3 * 0.044715 * x**2)
    return (gradient * 0.5 * (1 + tanh + x * (1 - tanh**2) * slope),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def add_bias(x_NHWC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """`x_NHWC + bias_C`, with the gradient of the bias as a matrix product.

    XLA:CPU fuses a plain sum with all that comes before it, and then writes every constant in it out in full size:
    with the GELU of the first layer's 24 channels that is 100 MB for 256 images.
    """
    return x_NHWC + bias_C


def _add_bias_forward(x_NHWC, bias_C):
    return add_bias(x_NHWC, bias_C), None


def _add_bias_backward(_, gradient_NHWC):
    rows_MC = gradient_NHWC.reshape(-1, gradient_NHWC.shape[-1])
    ones_M = jnp.ones(len(rows_MC), rows_MC.dtype)
    return gradient_NHWC, jnp.dot(ones_M, rows_MC, precision=lax.Precision.HIGHEST)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
