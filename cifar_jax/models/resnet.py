"""ResNets as published (He et al. 2015, 2016), so that weights from all the usual sources fit.

The sources differ in settings that the shapes of the weights do not show: the place of the stride, the padding of the
pooling, epsilon. `VARIANTS` has the settings of each; `cifar_jax/pretrained` reads the weights.
"""

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import DATA_AXIS
from cifar_jax.models.classifier import Classifier, abstract_variables
from cifar_jax.models.layers import Conv, average_pool, overlapping_max_pool
from cifar_jax.models.resnet_init import fill

VARIANTS: dict[str, dict] = {
    # The authors' release for Caffe (He et al. 2015), whose max-pool has no padding before the image
    "caffe": {"stride_in": "conv1", "pool_padding": (0, 1)},
    # Keras ResNet50, from the authors' Caffe weights
    "v1": {"stride_in": "conv1", "epsilon": 1.001e-5},
    # torchvision, timm, Hugging Face
    "v1.5": {},
    # Keras ResNet50V2 (He et al. 2016, Identity mappings in deep residual networks)
    "v2": {
        "preactivation": True,
        "stride_in_last_block": True,
        "conv_bias": ("stem_conv1", "shortcut_conv", "conv3"),
        "pool_pads_zero": True,
        "epsilon": 1.001e-5,
    },
    # timm resnet50d (He et al. 2018, Bag of tricks for image classification)
    "d": {"stem": "deep", "shortcut": "pool"},
    # Big Transfer (Kolesnikov et al. 2020)
    "bit": {"preactivation": True, "norm": "group", "pool_pads_zero": True},
}


class ResNet(Classifier):
    """A stem, stages of residual blocks, the mean over the image and a linear head.

    Layers are named stem_conv1, stem_norm1, stage1_block1/conv1, .../norm1, .../shortcut_conv, .../shortcut_norm,
    final_norm (with `preactivation`) and head.

    Attributes:
        variant: the key of `VARIANTS` whose settings these are; '' if they are none of them.
        stage_sizes: blocks in each stage.
        width: a bottleneck of stage i has width * 2**(i - 1) channels inside and four times that outside.
        stem_width: channels of the stem; 0 = width.
        block: 'bottleneck' (1x1, 3x3, 1x1) or 'basic' (3x3, 3x3; ResNet-18 and 34).
        preactivation: norm and ReLU before each convolution instead of after it.
        stride_in: 'conv2' or 'conv1': the convolution of a bottleneck that has the stride.
        stride_in_last_block: every stage but the last ends in a block of stride 2; else every stage but the first
            begins with one.
        stem: 'imagenet' (7x7 of stride 2, then a max-pool), 'deep' (three 3x3 instead of the 7x7) or 'small' (one 3x3
            of stride 1, no pool: for images of 32 pixels).
        shortcut: 'conv' (1x1, with the block's stride) or 'pool' (2x2 average-pool, then the 1x1).
        norm: 'batch', or 'group': GroupNorm of 32 groups, with standardized kernels (Qiao et al. 2019).
        epsilon: of the norms.
        norm_momentum: share of the old running statistics that a training step keeps.
        conv_bias: names of the convolutions that have a bias.
        pool_padding: pixels before and after each side of the image, for the stem's max-pool.
        pool_pads_zero: the stem's max-pool pads with 0 instead of -inf; the same result after a ReLU.
        pooled_stages: 'last' or 'all': the stages whose means over the image are the features.
        remat: recompute the inside of each block for its gradient instead of keeping it in memory.
    """

    variant: str = ""
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem_width: int = 0
    block: str = "bottleneck"
    preactivation: bool = False
    stride_in: str = "conv2"
    stride_in_last_block: bool = False
    stem: str = "imagenet"
    shortcut: str = "conv"
    norm: str = "batch"
    epsilon: float = 1e-5
    norm_momentum: float = 0.9
    conv_bias: tuple[str, ...] = ()
    pool_padding: tuple[int, int] = (1, 1)
    pool_pads_zero: bool = False
    pooled_stages: str = "last"
    remat: bool = False
    takes_pretrained_weights: ClassVar[bool] = True
    config_keys: ClassVar[tuple[str, ...]] = (
        *("variant", "stage_sizes", "width", "stem_width", "block", "stem", "pooled_stages", "remat"),
    )

    @classmethod
    def from_config(cls, config, *, num_classes: int, dtype: jnp.dtype, steps_per_epoch: int) -> "ResNet":
        return cls(
            num_classes=num_classes,
            **VARIANTS[config.variant] | ({"stem": config.stem} if config.stem else {}),
            variant="" if config.stem else config.variant,
            stage_sizes=tuple(config.stage_sizes),
            width=config.width,
            stem_width=config.stem_width,
            block=config.block,
            norm_momentum=max(1 - 10 / steps_per_epoch, 0.9),  # Grill et al., Bootstrap Your Own Latent, 2020, D.3
            pooled_stages=config.pooled_stages,
            remat=config.remat,
            dropout=config.dropout,
            dtype=dtype,
        )

    @property
    def architecture(self) -> dict | None:
        names = ("variant", "stage_sizes", "width", "stem_width", "block")
        is_published = self.variant and self.pooled_stages == "last"
        return {name: getattr(self, name) for name in names} if is_published else None

    @nn.nowrap
    def initial_variables(self, *, seed: int, images_NHWC: np.ndarray, prepare) -> dict:
        """As distributed by the initializers, without running them: for a ResNet-50 they take 9 to 12 seconds."""
        return fill(abstract_variables(self, prepare.image_size), seed=seed)

    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """The means over height and width of the last stage, or of all stages in order, float32 (N, C)."""
        outputs = self.stages(images_NHWC, train=train)
        if self.pooled_stages == "last":
            return outputs["features"]
        earlier = [outputs[f"stage{stage}"] for stage in range(1, len(self.stage_sizes))]
        means = [stage_NHWC.mean(axis=(1, 2), dtype=jnp.float32) for stage_NHWC in earlier]
        return jnp.concatenate([*means, outputs["features"]], axis=1)

    @nn.compact
    def stages(self, images_NHWC: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The outputs of 'stem', 'stage1', ..., (N, H, W, C) of `dtype`, and 'features'."""
        conv, norm = functools.partial(_conv, self), functools.partial(_norm, self, train)
        block_class = PreactivationBlock if self.preactivation else Block
        block_class = nn.remat(block_class) if self.remat else block_class
        outputs = {}
        x_NHWC = outputs["stem"] = self._stem(images_NHWC.astype(self.dtype), conv, norm)
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            for block in range(1, blocks + 1):
                convolutions, name = self._convolutions(stage, block), f"stage{stage}_block{block}"
                x_NHWC = block_class(convolutions, self.shortcut, conv, norm, name=name)(x_NHWC)
            outputs[f"stage{stage}"] = x_NHWC
        if self.preactivation:
            x_NHWC = nn.relu(norm(name="final_norm")(x_NHWC))
        return {**outputs, "features": x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)}

    @nn.nowrap
    def first_norm(self, variables: dict, images_NHWC: jax.Array) -> tuple[jax.Array, dict] | None:
        if self.norm == "group":  # it keeps no running statistics
            return None
        stem = functools.partial(self.clone(stage_sizes=()).apply, train=False, method="stages")
        if self.preactivation:  # the first norm is that of the first block; without stages it is in place of the last
            first = {name: layers["stage1_block1"]["norm1"] for name, layers in variables.items()}
            variables = {name: layers | {"final_norm": first[name]} for name, layers in variables.items()}
            return stem(variables, images_NHWC)["stem"], first["batch_stats"]
        _, captured = stem(variables, images_NHWC, capture_intermediates=True, mutable=["intermediates"])
        return captured["intermediates"]["stem_conv1"]["__call__"][0], variables["batch_stats"]["stem_norm1"]

    def _stem(self, x_NHWC, conv, norm):
        width = self.stem_width or self.width
        layers = {  # (channels, size, stride)
            "imagenet": ((width, 7, 2),),
            "deep": ((width // 2, 3, 2), (width // 2, 3, 1), (width, 3, 1)),
            "small": ((width, 3, 1),),
        }
        for number, (channels, size, stride) in enumerate(layers[self.stem], start=1):
            x_NHWC = conv(channels, size=size, stride=stride, name=f"stem_conv{number}")(x_NHWC)
            if not self.preactivation:
                x_NHWC = nn.relu(norm(name=f"stem_norm{number}")(x_NHWC))
        if self.stem == "small":
            return x_NHWC
        pad_with = 0.0 if self.pool_pads_zero else -math.inf
        return overlapping_max_pool(x_NHWC, padding=self.pool_padding, pad_with=pad_with)

    def _convolutions(self, stage: int, block: int) -> tuple[tuple[int, int, int], ...]:
        """(channels, size, stride) of each convolution of a block."""
        if self.stride_in_last_block:
            strided = stage < len(self.stage_sizes) and block == self.stage_sizes[stage - 1]
        else:
            strided = stage > 1 and block == 1
        stride = 2 if strided else 1
        width = self.width * 2 ** (stage - 1)
        if self.block == "basic":
            return (width, 3, stride), (width, 3, 1)
        first, second = (stride, 1) if self.stride_in == "conv1" else (1, stride)
        return (width, 1, first), (width, 3, second), (4 * width, 1, 1)


def _conv(net: ResNet, channels: int, *, size: int, stride: int = 1, name: str) -> Conv:
    settings = {"use_bias": name in net.conv_bias, "standardize": net.norm == "group", "dtype": net.dtype}
    return Conv(channels, size=size, stride=stride, **settings, name=name)


def _norm(net: ResNet, train: bool, *, name: str, scale_init=nn.initializers.ones) -> Callable[[jax.Array], jax.Array]:
    settings = {"epsilon": net.epsilon, "dtype": net.dtype, "scale_init": scale_init, "name": name}
    if net.norm == "group":
        return nn.GroupNorm(32, **settings)
    norm = nn.BatchNorm(momentum=net.norm_momentum, axis_name=DATA_AXIS, **settings)
    return functools.partial(norm, use_running_average=not train)


class Block(nn.Module):
    """Convolutions, each followed by a norm and a ReLU; the shortcut is added before the last ReLU."""

    convolutions: tuple[tuple[int, int, int], ...]  # (channels, size, stride) of each
    shortcut: str  # 'conv' or 'pool', as of `ResNet`
    conv: Callable[..., Callable]  # makes a convolution
    norm: Callable[..., Callable]  # makes a norm

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        channels, stride = self.convolutions[-1][0], math.prod(stride for _, _, stride in self.convolutions)
        shortcut_NHWC = x_NHWC
        if x_NHWC.shape[-1] != channels or stride > 1:
            if self.shortcut == "pool" and stride > 1:
                shortcut_NHWC, stride = average_pool(x_NHWC), 1
            shortcut_NHWC = self.conv(channels, size=1, stride=stride, name="shortcut_conv")(shortcut_NHWC)
            shortcut_NHWC = self.norm(name="shortcut_norm")(shortcut_NHWC)

        last = len(self.convolutions)
        for number, (channels, size, stride) in enumerate(self.convolutions, start=1):
            x_NHWC = self.conv(channels, size=size, stride=stride, name=f"conv{number}")(x_NHWC)
            # The block begins as the identity: Goyal et al. 2017, Accurate, large minibatch SGD.
            scale_init = nn.initializers.zeros if number == last else nn.initializers.ones
            x_NHWC = self.norm(name=f"norm{number}", scale_init=scale_init)(x_NHWC)
            x_NHWC = nn.relu(x_NHWC if number < last else x_NHWC + shortcut_NHWC)
        return x_NHWC


class PreactivationBlock(Block):
    """Convolutions, each after a norm and a ReLU; the shortcut is added to the last (He et al. 2016).

    The scales of its norms begin at one: at zero, the ReLU behind a norm would never pass on a gradient.
    """

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        channels, stride = self.convolutions[-1][0], math.prod(stride for _, _, stride in self.convolutions)
        y_NHWC = nn.relu(self.norm(name="norm1")(x_NHWC))
        if x_NHWC.shape[-1] != channels:
            shortcut_NHWC = self.conv(channels, size=1, stride=stride, name="shortcut_conv")(y_NHWC)
        else:
            shortcut_NHWC = x_NHWC[:, ::stride, ::stride]
        for number, (channels, size, stride) in enumerate(self.convolutions, start=1):
            if number > 1:
                y_NHWC = nn.relu(self.norm(name=f"norm{number}")(y_NHWC))
            y_NHWC = self.conv(channels, size=size, stride=stride, name=f"conv{number}")(y_NHWC)
        return y_NHWC + shortcut_NHWC
