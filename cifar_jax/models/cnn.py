"""The convolutional network that is trained from scratch, with the ideas of the CIFAR-10 speed records.

K. Jordan, 94% on CIFAR-10 in 3.29 seconds, 2024; T. Nguyen, hlb-CIFAR10; D. Page, How to train your ResNet, 2019.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import DATA_AXIS
from cifar_jax.errors import UsageError
from cifar_jax.models.classifier import Classifier
from cifar_jax.models.layers import Bias, Conv, max_pool
from cifar_jax.models.xla_cpu import gelu


def identity_first(key, shape, dtype=jnp.float32):
    """Uniform initial filters (He et al. 2015, gain 1/3), the first of them overwritten by the identity."""
    height, width, inputs, outputs = shape
    kernel_HWIO = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    same = min(inputs, outputs)
    identity_IO = jnp.eye(inputs, outputs, dtype=dtype)[:, :same]
    return kernel_HWIO.at[:, :, :, :same].set(0).at[height // 2, width // 2, :, :same].set(identity_IO)


class CNN(Classifier):
    """Blocks of (convolution, pooling, norm, GELU) and (convolution, norm, GELU), then a linear head.

    Attributes:
        widths: channels of the blocks; each block halves height and width.
        convs_per_block: 3x3 convolutions in a block; the first is followed by the pooling.
        norm: 'batch' (BatchNorm over the global batch, bias but no scale) or 'none' (a bias instead).
        whitening: begin with `whiten`, 24 filters of 2x2 set by `whitening_kernel`.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    convs_per_block: int = 2
    norm: str = "batch"
    whitening: bool = True
    config_keys: ClassVar[tuple[str, ...]] = ("widths", "convs_per_block", "norm", "whitening")
    head_settings: ClassVar[dict] = {"use_bias": False}

    @nn.compact
    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        x_NHWC = images_NHWC.astype(self.dtype)
        if self.whitening:
            x_NHWC = self._conv(24, "whiten", size=2)(x_NHWC)
            x_NHWC = gelu(Bias(name="whiten_bias")(x_NHWC))
        for block, width in enumerate(self.widths, start=1):
            for layer in range(1, self.convs_per_block + 1):
                x_NHWC = self._conv(width, f"block{block}_conv{layer}", kernel_init=identity_first)(x_NHWC)
                if layer == 1:
                    x_NHWC = max_pool(x_NHWC)
                x_NHWC = gelu(self._norm(f"block{block}_norm{layer}", train)(x_NHWC))
        return x_NHWC.max(axis=(1, 2)).astype(jnp.float32)

    def classify(self, features_NC: jax.Array, *, train: bool) -> jax.Array:
        return super().classify(features_NC, train=train) / 9

    @nn.nowrap
    def require_size(self, image_size: int) -> None:
        require_blocks(len(self.widths), image_size)

    @nn.nowrap
    def initial_variables(self, *, seed: int, images_NHWC: np.ndarray, prepare) -> dict:
        """Random, except for the filters that whiten patches of the first 5,000 training images."""
        variables = super().initial_variables(seed=seed, images_NHWC=images_NHWC, prepare=prepare)
        if self.whitening:
            variables["params"]["whiten"] = {"kernel": whitening_kernel(images_NHWC, prepare=prepare)}
        return variables

    def _conv(self, width: int, name: str, **settings) -> Conv:
        # By taps, convolutions of 4x4 maps are no faster with 256 images (192 channels: 232 ms with gradients, 237).
        # Those of 2x2 maps are: at 20 pixels the whole step takes 0.6 s instead of 1.0 s (512 images, two cores).
        return Conv(width, largest_by_taps=9, dtype=self.dtype, name=name, **settings)

    def _norm(self, name: str, train: bool):
        if self.norm == "none":
            return Bias(name=name)
        settings = {"epsilon": 1e-5, "use_scale": False, "dtype": self.dtype, "axis_name": DATA_AXIS, "name": name}
        norm = nn.BatchNorm(momentum=0.6, **settings)  # few steps in all: statistics must follow fast
        return functools.partial(norm, use_running_average=not train)


def require_blocks(blocks: int, image_size: int, *, cut: int = 0) -> None:
    """Raises UsageError if an image of this size, less `cut` pixels, shrinks to 0 in blocks that halve it."""
    possible = max(0, (image_size - cut).bit_length() - 1)  # each halves the image, rounded down
    if blocks > possible:
        fewer = f"at most {possible} blocks, or " if possible else ""
        raise UsageError(
            f"--config.model.widths has {blocks} blocks: an image of {image_size} pixels shrinks to 0 in "
            f"block {possible + 1}; use {fewer}at least {2**blocks + cut} pixels (model.image_size, train.image_sizes)"
        )


def whitening_kernel(
    images_NHWC: np.ndarray, *, prepare: Callable[[jax.Array], jax.Array], epsilon: float = 5e-4
) -> np.ndarray:
    """Filters, float32 (2, 2, 3, 24), whose outputs on the images are uncorrelated and of equal size.

    The eigenvectors of the (uncentered) covariance of all 2x2 patches of normalized images, each divided by the root of
    its eigenvalue, and their negatives, since the activation that follows keeps one sign only.

    Args:
        images_NHWC: as stored, uint8; the first 5,000 are used, 50 at a time, because all their patches take 1 GB at
            64 pixels.
        prepare: turns images into the model's input, float32.
        epsilon: is added to the eigenvalues, so that directions without variance do not blow up.
    """
    total_DD, patches = np.zeros((12, 12)), 0
    for start in range(0, min(len(images_NHWC), 5000), 50):
        prepared_NHWC = np.asarray(prepare(jnp.asarray(images_NHWC[start : start + 50])))
        windows = np.lib.stride_tricks.sliding_window_view(prepared_NHWC, (2, 2), axis=(1, 2))  # N, H-1, W-1, C, 2, 2
        patches_PD = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12).astype(np.float32)
        total_DD += patches_PD.T @ patches_PD
        patches += len(patches_PD)
    eigenvalues_D, eigenvectors_DD = np.linalg.eigh(total_DD / patches)
    filters_DD = eigenvectors_DD / np.sqrt(eigenvalues_D + epsilon)
    return np.concatenate([filters_DD, -filters_DD], axis=1).reshape(2, 2, 3, 24).astype(np.float32)
