"""ResNets as they are published (He et al. 2015, 2016), so that weights from any of the usual sources fit.

The sources differ where the shapes of the weights do not tell: in where the stride sits, in what the pooling pads with,
in epsilon. `VARIANTS` has the settings of each; `cifar_jax/pretrained` reads the weights.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.devices import DATA_AXIS
from cifar_jax.models.convolution import Conv, average_pool, max_pool

VARIANTS: dict[str, dict] = {
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


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the mean over the image and a linear head.

    Layers are named stem_conv1, stem_norm1, stage1_block1/conv1, .../norm1, .../shortcut_conv, .../shortcut_norm, head
    and, with `preactivation`, final_norm; numbers begin at 1.

    Attributes:
        num_classes: K.
        stage_sizes: blocks in each stage.
        width: channels of the stem; a bottleneck of stage i is width * 2**(i - 1) inside and four times that outside.
        block: 'bottleneck' (1x1, 3x3, 1x1) or 'basic' (3x3, 3x3; ResNet-18 and 34).
        preactivation: norm and ReLU before each convolution instead of after it.
        stride_in: 'conv2', or 'conv1': which convolution of a bottleneck has the stride.
        stride_in_last_block: stages 1 to 3 end in a block of stride 2; else stages 2 to 4 begin with it.
        stem: 'imagenet' (7x7 of stride 2, then a max-pool), 'deep' (three 3x3 in place of the 7x7) or 'small' (one 3x3
            of stride 1, no pool: for images of 32 pixels).
        shortcut: 'conv' (1x1, with the block's stride) or 'pool' (2x2 average-pool, then the 1x1).
        norm: 'batch', or 'group': GroupNorm of 32 groups, with standardized kernels (Qiao et al. 2019).
        epsilon: of the norms.
        norm_momentum: share of the old running statistics that a training step keeps.
        conv_bias: names of the convolutions that have a bias.
        pool_pads_zero: the stem's max-pool pads with 0 instead of -inf; the same thing after a ReLU.
        frozen_norms: paths of BatchNorms that use their running statistics in training too, and leave them as they are.
        remat: compute the inside of each block again for its gradient, instead of keeping it in memory.
        dtype: of the computation; parameters, statistics, pooled features and logits are float32.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
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
    pool_pads_zero: bool = False
    frozen_norms: tuple[str, ...] = ()
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)

    def __call__(self, images_NHWC: jax.Array, *, train: bool, return_stages: bool = False):
        """Logits, float32 (N, K), of normalized images (N, H, W, 3).

        With `return_stages` also what comes out of 'stem', 'stage1', ..., as (N, H, W, C) of `dtype`, and 'features'.
        In training it must run where the mesh axis is bound: BatchNorm averages over the whole batch.
        """
        stages = self.stages(images_NHWC, train=train)
        logits_NK = self.head(stages["features"])
        return (logits_NK, stages) if return_stages else logits_NK

    def features(self, images_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """What the head takes, float32 (N, C): the mean of the last stage over height and width. Needs no head."""
        return self.stages(images_NHWC, train=train)["features"]

    def classify(self, features_NC: jax.Array) -> jax.Array:
        """Logits, float32 (N, K), of what `features` gives. Needs nothing but the head."""
        return self.head(features_NC)

    @nn.compact
    def stages(self, images_NHWC: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The outputs of 'stem', 'stage1', ... and 'features'; arguments as of `__call__`."""
        conv = functools.partial(_conv, self)
        norm = functools.partial(_norm, self, train)
        block_class = PreactivationBlock if self.preactivation else Block
        block_class = nn.remat(block_class) if self.remat else block_class

        outputs = {}
        x_NHWC = outputs["stem"] = self._stem(images_NHWC.astype(self.dtype), conv, norm)
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            for block in range(1, blocks + 1):
                name = f"stage{stage}_block{block}"
                x_NHWC = block_class(
                    convolutions=self._convolutions(stage, block),
                    shortcut=self.shortcut,
                    conv=conv,
                    norm=functools.partial(norm, block=name),
                    name=name,
                )(x_NHWC)
            outputs[f"stage{stage}"] = x_NHWC
        if self.preactivation:
            x_NHWC = nn.relu(norm(name="final_norm")(x_NHWC))
        return {**outputs, "features": x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)}

    def _stem(self, x_NHWC, conv, norm):
        width = self.width
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
        return max_pool(x_NHWC, pad_with=0.0 if self.pool_pads_zero else -math.inf)

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
    return Conv(
        channels,
        size=size,
        stride=stride,
        use_bias=name in net.conv_bias,
        standardize=net.norm == "group",
        dtype=net.dtype,
        name=name,
    )


def _norm(net: ResNet, train: bool, *, name: str, block: str = "", scale_init=nn.initializers.ones) -> nn.Module:
    if net.norm == "group":
        return nn.GroupNorm(32, epsilon=net.epsilon, dtype=net.dtype, scale_init=scale_init, name=name)
    is_frozen = (f"{block}/{name}" if block else name) in net.frozen_norms
    return nn.BatchNorm(
        use_running_average=is_frozen or not train,
        momentum=net.norm_momentum,
        epsilon=net.epsilon,
        dtype=net.dtype,
        scale_init=scale_init,
        axis_name=DATA_AXIS if train and not is_frozen else None,
        name=name,
    )


class Block(nn.Module):
    """Convolutions, each followed by a norm and, but for the last, a ReLU; the shortcut is added before the last ReLU.

    Attributes:
        convolutions: (channels, size, stride) of each.
        shortcut: 'conv' or 'pool', as of `ResNet`.
        conv, norm: make the layers.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    shortcut: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

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


class PreactivationBlock(nn.Module):
    """Convolutions, each after a norm and a ReLU; the shortcut is added to the last (He et al. 2016).

    The scales of its norms begin at one: at zero, the ReLU behind a norm would pass no gradient on, ever.

    Attributes: as of `Block`.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    shortcut: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

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
