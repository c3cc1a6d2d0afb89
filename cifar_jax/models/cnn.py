"""The convolutional network that is trained from scratch.

Its ideas are those of the CIFAR-10 speed records (K. Jordan, 94% on CIFAR-10 in 3.29 seconds, 2024; T. Nguyen,
hlb-CIFAR10; D. Page, How to train your ResNet, 2019): a first layer that whitens 2x2 patches and is not trained, blocks
of convolution, pooling, BatchNorm and GELU, filters that begin as the identity, and small logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import DATA_AXIS
from cifar_jax.models.layers import Conv, add_bias, gelu, max_pool


def identity_first(key, shape, dtype=jnp.float32):
    """Uniform initial filters (He et al. 2015, gain 1/3), the first of them overwritten by the identity."""
    height, width, inputs, outputs = shape
    kernel_HWIO = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    same = min(inputs, outputs)
    identity_IO = jnp.eye(inputs, outputs, dtype=dtype)[:, :same]
    return kernel_HWIO.at[:, :, :, :same].set(0).at[height // 2, width // 2, :, :same].set(identity_IO)


class CNN(nn.Module):
    """Blocks of (convolution, pooling, norm, GELU) and (convolution, norm, GELU), then a linear head.

    Attributes:
        num_classes: K.
        widths: channels of the blocks; each block halves height and width.
        convs_per_block: 3x3 convolutions in a block; the first is followed by the pooling.
        norm: 'batch' (BatchNorm over the global batch, bias but no scale) or 'none' (a bias in its place).
        whitening: begin with `whiten`, 24 filters of 2x2 set by `whitening_kernel`.
        dtype: of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 256)
    convs_per_block: int = 2
    norm: str = "batch"
    whitening: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits, float32 (N, K), of normalized images (N, H, W, 3)."""
        x_NHWC = images_NHWC.astype(self.dtype)
        if self.whitening:
            x_NHWC = Conv(24, size=2, dtype=self.dtype, name="whiten")(x_NHWC)
            x_NHWC = gelu(Bias(name="whiten_bias")(x_NHWC))
        for block, width in enumerate(self.widths, start=1):
            for layer in range(1, self.convs_per_block + 1):
                name = f"block{block}_conv{layer}"
                x_NHWC = Conv(width, dtype=self.dtype, kernel_init=identity_first, name=name)(x_NHWC)
                if layer == 1:
                    x_NHWC = max_pool(x_NHWC)
                x_NHWC = gelu(self._norm(f"block{block}_norm{layer}", train)(x_NHWC))
        features_NC = x_NHWC.max(axis=(1, 2)).astype(jnp.float32)
        return nn.Dense(self.num_classes, use_bias=False, name="head")(features_NC) / 9

    def _norm(self, name: str, train: bool):
        if self.norm == "none":
            return Bias(name=name)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.6,  # few steps in all: statistics must follow fast
            epsilon=1e-5,
            use_scale=False,
            dtype=self.dtype,
            axis_name=DATA_AXIS if train else None,
            name=name,
        )


class Bias(nn.Module):
    """Adds a trained constant to each channel."""

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        bias_C = self.param("bias", nn.initializers.zeros, (x_NHWC.shape[-1],))
        return add_bias(x_NHWC, bias_C.astype(x_NHWC.dtype))


def whitening_kernel(images_NHWC: np.ndarray, *, epsilon: float = 5e-4) -> np.ndarray:
    """Filters, float32 (2, 2, 3, 24), whose outputs on the images are uncorrelated and of equal size.

    The eigenvectors of the (uncenterd) covariance of all 2x2 patches, each divided by the root of its eigenvalue, and
    their negatives, since the activation that follows keeps one sign only.

    Args:
        images_NHWC: normalized float images; 5,000 are plenty.
        epsilon: added to the eigenvalues, so that directions without variance do not blow up.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images_NHWC, (2, 2), axis=(1, 2))  # N, H-1, W-1, C, 2, 2
    patches_PD = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12).astype(np.float32)
    covariance_DD = patches_PD.T @ patches_PD / len(patches_PD)
    eigenvalues_D, eigenvectors_DD = np.linalg.eigh(covariance_DD.astype(np.float64))
    filters_DD = eigenvectors_DD / np.sqrt(eigenvalues_D + epsilon)
    kernel_DO = np.concatenate([filters_DD, -filters_DD], axis=1)
    return kernel_DO.reshape(2, 2, 3, 24).astype(np.float32)
