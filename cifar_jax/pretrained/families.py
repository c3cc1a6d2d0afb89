"""How each source of ResNet weights names its tensors: one table a family, from our layers to theirs.

A name is the layer's template, the family's separator and its word for the leaf. Templates are filled with the block's
place: `stage` and `block` count from 1, `stage0` and `block0` from 0, `stage1` from 2 (Keras: conv2 is stage 1).
"""

import dataclasses
import re

from cifar_jax.pretrained.backbone import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear", 0.875, 224)
PLUS_MINUS_ONE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", None, 224)
# The weights take 0..255 less the mean, channels in the order BGR; the order is undone in the first kernel.
CAFFE = Preprocessing((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255), "bilinear", None, 224)

_TORCH_LEAVES = {"kernel": "weight", "bias": "bias"}
_TORCH_NORM_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_KERAS_LEAVES = {"kernel": "kernel", "bias": "bias"}
_KERAS_NORM_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


@dataclasses.dataclass(frozen=True)
class Family:
    """One naming of the tensors of a ResNet.

    Attributes:
        variant: the key of `models.resnet.VARIANTS` whose network these weights are.
        mark: regular expression that is found in the names of this family and of none before it in `FAMILIES`.
        block: regular expression whose groups are a tensor's stage and block, as the family counts them.
        layers: our layer (without its block) -> template of theirs.
        leaves, norm_leaves: our parameter of a convolution or the head, or of a norm -> theirs.
        torch_layout: kernels lie as (out, in, height, width) and the head as (classes, features).
        caffe: every convolution has a bias in front of its norm, and the first takes BGR.
        ignored: regular expression of names without a place in the network.
        preprocessing: what the family's networks usually take; a catalogue entry says it better.
    """

    variant: str
    mark: str
    block: str
    layers: dict[str, str]
    preprocessing: Preprocessing
    leaves: dict[str, str] = dataclasses.field(default_factory=lambda: _TORCH_LEAVES)
    norm_leaves: dict[str, str] = dataclasses.field(default_factory=lambda: _TORCH_NORM_LEAVES)
    torch_layout: bool = True
    caffe: bool = False
    ignored: str = r"\.num_batches_tracked$"

    def name(self, path: str) -> str:
        """Their name of a parameter or statistic of ours, e.g. 'stage1_block1/norm1/scale'."""
        block, layer, leaf = re.fullmatch(r"(?:(stage\d+_block\d+)/)?(\w+)/(\w+)", path).groups()
        stage, number = map(int, re.findall(r"\d+", block)) if block else (0, 0)
        place = {"stage": stage, "stage0": stage - 1, "stage1": stage + 1, "block": number, "block0": number - 1}
        leaves = self.norm_leaves if "norm" in layer else self.leaves
        separator = "." if self.torch_layout else "/"
        return self.layers[layer].format(**place) + separator + leaves[leaf]


def _torch_blocks(shortcut_conv: int) -> dict[str, str]:
    block = "layer{stage}.{block0}."
    return {
        **{f"conv{n}": f"{block}conv{n}" for n in (1, 2, 3)},
        **{f"norm{n}": f"{block}bn{n}" for n in (1, 2, 3)},
        "shortcut_conv": f"{block}downsample.{shortcut_conv}",
        "shortcut_norm": f"{block}downsample.{shortcut_conv + 1}",
        "head": "fc",
    }


# torchvision, timm, and what others have trained from them (the robust networks of MadryLab among them, which keep
# their normalization and a second copy of the network beside the weights).
TORCHVISION = Family(
    variant="v1.5",
    mark=r"^layer\d+\.\d+\.",
    block=r"^layer(\d+)\.(\d+)\.",
    layers={"stem_conv1": "conv1", "stem_norm1": "bn1", **_torch_blocks(shortcut_conv=0)},
    ignored=r"\.num_batches_tracked$|^(attacker|normalizer|normalize)\.",
    preprocessing=IMAGENET,
)

# timm's resnet..d: three convolutions in the stem, and an average pool before the shortcut's convolution.
TIMM_D = Family(
    variant="d",
    mark=r"^conv1\.\d",
    block=r"^layer(\d+)\.(\d+)\.",
    layers={
        **{"stem_conv1": "conv1.0", "stem_norm1": "conv1.1", "stem_conv2": "conv1.3", "stem_norm2": "conv1.4"},
        **{"stem_conv3": "conv1.6", "stem_norm3": "bn1"},
        **_torch_blocks(shortcut_conv=1),
    },
    preprocessing=dataclasses.replace(IMAGENET, resize_method="bicubic", crop_fraction=0.95),
)

_HF_BLOCK = "encoder.stages.{stage0}.layers.{block0}."
HUGGING_FACE = Family(
    variant="v1.5",
    mark=r"^encoder\.stages\.",
    block=r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.",
    layers={
        **{"stem_conv1": "embedder.embedder.convolution", "stem_norm1": "embedder.embedder.normalization"},
        **{f"conv{n}": f"{_HF_BLOCK}layer.{n - 1}.convolution" for n in (1, 2, 3)},
        **{f"norm{n}": f"{_HF_BLOCK}layer.{n - 1}.normalization" for n in (1, 2, 3)},
        "shortcut_conv": f"{_HF_BLOCK}shortcut.convolution",
        "shortcut_norm": f"{_HF_BLOCK}shortcut.normalization",
        "head": "classifier.1",
    },
    preprocessing=dataclasses.replace(IMAGENET, resize_method="bicubic"),
)

_KERAS_BLOCK = "conv{stage1}_block{block}_"
KERAS_V1 = Family(
    variant="v1",
    mark=r"^conv\d+_block\d+_\d_conv/",
    block=r"^conv(\d+)_block(\d+)_",
    layers={
        "stem_conv1": "conv1_conv",
        "stem_norm1": "conv1_bn",
        **{f"conv{n}": f"{_KERAS_BLOCK}{n}_conv" for n in (1, 2, 3)},
        **{f"norm{n}": f"{_KERAS_BLOCK}{n}_bn" for n in (1, 2, 3)},
        "shortcut_conv": f"{_KERAS_BLOCK}0_conv",
        "shortcut_norm": f"{_KERAS_BLOCK}0_bn",
        "head": "predictions",
    },
    leaves=_KERAS_LEAVES,
    norm_leaves=_KERAS_NORM_LEAVES,
    torch_layout=False,
    caffe=True,
    ignored=r"^$",
    preprocessing=CAFFE,
)

KERAS_V2 = Family(
    variant="v2",
    mark=r"_preact_bn/|^post_bn/",
    block=r"^conv(\d+)_block(\d+)_",
    layers={
        "stem_conv1": "conv1_conv",
        **{f"conv{n}": f"{_KERAS_BLOCK}{n}_conv" for n in (1, 2, 3)},
        **{"norm1": f"{_KERAS_BLOCK}preact_bn", "norm2": f"{_KERAS_BLOCK}1_bn", "norm3": f"{_KERAS_BLOCK}2_bn"},
        "shortcut_conv": f"{_KERAS_BLOCK}0_conv",
        "final_norm": "post_bn",
        "head": "predictions",
    },
    leaves=_KERAS_LEAVES,
    norm_leaves=_KERAS_NORM_LEAVES,
    torch_layout=False,
    ignored=r"^$",
    preprocessing=PLUS_MINUS_ONE,
)

_BIT_UNIT = "block{stage}/unit{block:02}/"
BIT = Family(
    variant="bit",
    mark=r"^block\d+/unit\d+/",
    block=r"^block(\d+)/unit(\d+)/",
    layers={
        "stem_conv1": "root_block/standardized_conv2d",
        **{f"conv{n}": f"{_BIT_UNIT}{letter}/standardized_conv2d" for n, letter in enumerate("abc", start=1)},
        **{f"norm{n}": f"{_BIT_UNIT}{letter}/group_norm" for n, letter in enumerate("abc", start=1)},
        "shortcut_conv": f"{_BIT_UNIT}a/proj/standardized_conv2d",
        "final_norm": "group_norm",
        "head": "head/conv2d",
    },
    leaves=_KERAS_LEAVES,
    norm_leaves=_KERAS_NORM_LEAVES,
    torch_layout=False,
    ignored=r"^$",
    preprocessing=PLUS_MINUS_ONE,
)

# In this order: the mark of a later one may be found in an earlier one's names.
FAMILIES = (TIMM_D, TORCHVISION, HUGGING_FACE, KERAS_V2, KERAS_V1, BIT)
