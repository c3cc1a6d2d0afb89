"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.devices import DATA_AXIS
from cifar_jax.models.classifier import Classifier
from cifar_jax.models.layers import Conv


class WideResNet(Classifier):
    """A 3x3 convolution, stages of pre-activation blocks, the mean over the image and a linear head.

    The dropout is between the two convolutions of each block, not before the head. WideResNet-28-10 is the default:
    its 28 layers are 6 convolutions for each block of a stage and 4 others, its first stage has 16 * 10 channels.

    Attributes:
        stage_sizes: blocks in each stage; every stage but the first halves the image.
        width: channels of the first stage; they double in each stage.
    """

    stage_sizes: tuple[int, ...] = (4, 4, 4)
    width: int = 160
    config_keys: ClassVar[tuple[str, ...]] = ("stage_sizes", "width")

    @nn.compact
    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        x_NHWC = Conv(16, dtype=self.dtype, name="stem_conv")(images_NHWC)
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            for block in range(1, blocks + 1):
                x_NHWC = WideBlock(
                    width=self.width * 2 ** (stage - 1),
                    stride=2 if stage > 1 and block == 1 else 1,
                    dropout=self.dropout,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x_NHWC, train=train)
        x_NHWC = norm_relu(x_NHWC, name="final_norm", train=train)
        return x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)

    def classify(self, features_NC: jax.Array, *, train: bool) -> jax.Array:
        return self.head(features_NC)


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU, with dropout before the second."""

    width: int
    stride: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, *, train: bool) -> jax.Array:
        shortcut_NHWC, y_NHWC = x_NHWC, norm_relu(x_NHWC, name="norm1", train=train)
        if x_NHWC.shape[-1] != self.width or self.stride > 1:
            shortcut_NHWC = Conv(self.width, size=1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")(y_NHWC)
        y_NHWC = Conv(self.width, stride=self.stride, dtype=self.dtype, name="conv1")(y_NHWC)
        y_NHWC = norm_relu(y_NHWC, name="norm2", train=train)
        y_NHWC = nn.Dropout(self.dropout)(y_NHWC, deterministic=not train)
        return shortcut_NHWC + Conv(self.width, dtype=self.dtype, name="conv2")(y_NHWC)


def norm_relu(x_NHWC: jax.Array, *, name: str, train: bool) -> jax.Array:
    """Called inside a module, which holds the norm."""
    norm = nn.BatchNorm(momentum=0.9, dtype=x_NHWC.dtype, axis_name=DATA_AXIS, name=name)
    return nn.relu(norm(x_NHWC, use_running_average=not train))
