"""The networks of cifar10-airbench (K. Jordan, 94% on CIFAR-10 in 3.29 seconds, 2024; with Muon since late 2024)."""

import functools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import DATA_AXIS
from cifar_jax.models.classifier import Classifier
from cifar_jax.models.cnn import identity_first, require_blocks, whitening_kernel
from cifar_jax.models.layers import Bias, Conv, max_pool

gelu = functools.partial(jax.nn.gelu, approximate=False)
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # within 1 / sqrt(fan_in)


def unit_std(key, shape, dtype=jnp.float32):
    """Uniform initial values, divided by their own standard deviation."""
    values = torch_uniform(key, shape, dtype)
    return values / values.std(ddof=1)


def uniform_within(bound: float) -> nn.initializers.Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Airbench94(Classifier):
    """The network of airbench94_muon; for images of 32 pixels the maps have 31, 15, 7 and 3 pixels.

    Filters of 2x2 that whiten, without padding; blocks of (convolution, pooling, norm, GELU) and then (convolution,
    norm, GELU); the maximum over the image; a linear head.

    Attributes:
        widths: channels of the blocks.
        convs_per_block: 3x3 convolutions in a block; from 3 on, the last adds the block's first activation, as in
            airbench96.
        norm_momentum: share of the old running statistics that a step keeps.
        whiten_bias_bound: of the initial values, uniform around 0, of the bias behind the whitening filters.
        logit_scale: factor of the logits; None: 1 / channels of the last block.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    convs_per_block: int = 2
    config_keys: ClassVar[tuple[str, ...]] = ("widths", "convs_per_block")
    head_settings: ClassVar[dict] = {"use_bias": False, "kernel_init": unit_std}
    norm_momentum: ClassVar[float] = 0.6
    whiten_bias_bound: ClassVar[float] = 1 / math.sqrt(12)  # a 2x2 patch has 12 values
    logit_scale: ClassVar[float | None] = None

    @nn.compact
    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        x_NHWC = Conv(24, size=2, dtype=self.dtype, name="whiten")(images_NHWC.astype(self.dtype))
        x_NHWC = x_NHWC[:, :-1, :-1]  # the windows inside the image: `Conv` pads at the bottom and right
        x_NHWC = gelu(Bias(bias_init=uniform_within(self.whiten_bias_bound), name="whiten_bias")(x_NHWC))
        for block, width in enumerate(self.widths, start=1):
            x_NHWC = self._block(x_NHWC, width, f"block{block}", train)
        return x_NHWC.max(axis=(1, 2)).astype(jnp.float32)

    def _block(self, x_NHWC: jax.Array, width: int, name: str, train: bool) -> jax.Array:
        x_NHWC = max_pool(self._conv(x_NHWC, width, f"{name}_conv1"))
        x_NHWC = first_NHWC = gelu(self._norm(x_NHWC, f"{name}_norm1", train))
        for layer in range(2, self.convs_per_block + 1):
            x_NHWC = self._norm(self._conv(x_NHWC, width, f"{name}_conv{layer}"), f"{name}_norm{layer}", train)
            if layer == self.convs_per_block > 2:
                x_NHWC += first_NHWC
            x_NHWC = gelu(x_NHWC)
        return x_NHWC

    def _conv(self, x_NHWC: jax.Array, width: int, name: str) -> jax.Array:
        return Conv(width, largest_by_taps=9, dtype=self.dtype, kernel_init=identity_first, name=name)(x_NHWC)

    def _norm(self, x_NHWC: jax.Array, name: str, train: bool) -> jax.Array:
        settings = {"epsilon": 1e-12, "use_scale": False, "dtype": self.dtype, "axis_name": DATA_AXIS, "name": name}
        return nn.BatchNorm(momentum=self.norm_momentum, **settings)(x_NHWC, use_running_average=not train)

    def classify(self, features_NC: jax.Array, *, train: bool) -> jax.Array:
        scale = self.logit_scale or 1 / features_NC.shape[-1]
        return super().classify(features_NC, train=train) * scale

    @nn.nowrap
    def require_size(self, image_size: int) -> None:
        require_blocks(len(self.widths), image_size, cut=1)

    @nn.nowrap
    def initial_variables(self, *, seed: int, images_NHWC: np.ndarray, prepare) -> dict:
        """Random, except for the filters that whiten patches of the first 5,000 training images."""
        variables = super().initial_variables(seed=seed, images_NHWC=images_NHWC, prepare=prepare)
        variables["params"]["whiten"] = {"kernel": whitening_kernel(images_NHWC, prepare=prepare)}
        return variables


class Airbench96(Airbench94):
    """The network of airbench96: three convolutions in a block, statistics of more steps, a smaller head."""

    widths: tuple[int, ...] = (128, 384, 512)
    convs_per_block: int = 3
    head_settings: ClassVar[dict] = {"use_bias": False, "kernel_init": torch_uniform}
    norm_momentum: ClassVar[float] = 0.9
    whiten_bias_bound: ClassVar[float] = 0.0
    logit_scale: ClassVar[float | None] = 1 / 9
