"""How each source of ResNet weights names its tensors: one table per family, from our layers to theirs.

Templates are filled in with the position of the block: `stage` and `block` count from 1, `stage0` and `block0` from 0,
`stage_plus_1` from 2 (Keras: conv2 is stage 1).
"""

import dataclasses
import re

from cifar_jax.errors import DataError
from cifar_jax.preprocessing.preprocess import Preprocessing

# Resize method and size are 'bilinear' and 224 if the source does not state them.
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, "bilinear")
IMAGENET_BICUBIC = dataclasses.replace(IMAGENET, resize_method="bicubic")
PLUS_MINUS_ONE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 224, "bilinear")
PLUS_MINUS_ONE_BICUBIC = dataclasses.replace(PLUS_MINUS_ONE, resize_method="bicubic")
# Values of 0..255 minus the mean. Keras's weights expect them in BGR order; `convert` reorders the first kernel to RGB.
CAFFE = Preprocessing((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255), 224, "bilinear")

# The separator before the name of a parameter; our parameter of a convolution or the head, or of a norm -> its name.
_TORCH_LEAVES = (
    ".",
    {"kernel": "weight", "bias": "bias"},
    {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
)
_KERAS_LEAVES = (
    "/",
    {"kernel": "kernel", "bias": "bias"},
    {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One naming of the tensors of a ResNet.

    Attributes:
        variant: the key of `models.resnet.VARIANTS` that these weights belong to.
        signature: regular expression that matches names of this family and of none after it in `FAMILIES`.
        block: regular expression whose groups are the stage and block of a tensor, in the family's numbering.
        layers: our layer (without its block) -> template of its name.
        preprocessing: the usual one of this family; a catalog entry or the file's own metadata overrides it.
        torch_layout: PyTorch's names of parameters, kernels (out, in, height, width) and head (K, features); otherwise
            Keras's names, (height, width, in, out) and (features, K).
        caffe: every convolution has a bias before its norm, and the first kernel takes BGR.
        ignored: regular expression of names that are not part of the network.
        publisher: for messages.
    """

    variant: str
    signature: str
    block: str
    layers: dict[str, str]
    preprocessing: Preprocessing
    torch_layout: bool = True
    caffe: bool = False
    ignored: str = r"\.num_batches_tracked$"
    publisher: str = "the family"

    def name(self, path: str) -> str:
        """The family's name of one of our parameters or statistics, e.g. 'stage1_block1/norm1/scale'."""
        block, layer, leaf = re.fullmatch(r"(?:(stage\d+_block\d+)/)?(\w+)/(\w+)", path).groups()
        stage, number = map(int, re.findall(r"\d+", block)) if block else (0, 0)
        position = {"stage": stage, "stage0": stage - 1, "stage_plus_1": stage + 1}
        position |= {"block": number, "block0": number - 1}
        separator, leaves, norm_leaves = _TORCH_LEAVES if self.torch_layout else _KERAS_LEAVES
        if layer not in self.layers:
            raise DataError(f"the family of variant {self.variant} has no name for the layer {layer}")
        return self.layers[layer].format(**position) + separator + (norm_leaves if "norm" in layer else leaves)[leaf]


def _torch_blocks(shortcut_conv: int) -> dict[str, str]:
    block = "layer{stage}.{block0}."
    return {
        **{f"conv{n}": f"{block}conv{n}" for n in (1, 2, 3)},
        **{f"norm{n}": f"{block}bn{n}" for n in (1, 2, 3)},
        "shortcut_conv": f"{block}downsample.{shortcut_conv}",
        "shortcut_norm": f"{block}downsample.{shortcut_conv + 1}",
        "head": "fc",
    }


# torchvision, timm, and networks derived from them. MadryLab's robust networks also store their normalization and a
# second copy of the network.
TORCHVISION = Family(
    publisher="torchvision",
    variant="v1.5",
    signature=r"^layer\d+\.\d+\.",
    block=r"^layer(\d+)\.(\d+)\.",
    layers={"stem_conv1": "conv1", "stem_norm1": "bn1", **_torch_blocks(shortcut_conv=0)},
    ignored=r"\.num_batches_tracked$|(?:^|\.)(attacker|normalizer|normalize)\.",
    preprocessing=IMAGENET,
)

# The authors' release for Caffe, as converters to PyTorch name it. These names are torchvision's: `convert`
# recognizes the layout by what the file states, or by a stem that is wider or narrower than the first stage.
CAFFE_RELEASE = dataclasses.replace(TORCHVISION, publisher="Caffe", variant="caffe", preprocessing=CAFFE)

# timm's resnet..d: three convolutions in the stem, and average pooling before the convolution of the shortcut.
TIMM_D = Family(
    publisher="timm",
    variant="d",
    signature=r"^conv1\.\d",
    block=r"^layer(\d+)\.(\d+)\.",
    layers={
        **{"stem_conv1": "conv1.0", "stem_norm1": "conv1.1", "stem_conv2": "conv1.3", "stem_norm2": "conv1.4"},
        **{"stem_conv3": "conv1.6", "stem_norm3": "bn1"},
        **_torch_blocks(shortcut_conv=1),
    },
    preprocessing=IMAGENET_BICUBIC,
)

_HF_BLOCK = "encoder.stages.{stage0}.layers.{block0}."
HUGGING_FACE = Family(
    publisher="Hugging Face",
    variant="v1.5",
    signature=r"^encoder\.stages\.",
    block=r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.",
    layers={
        **{"stem_conv1": "embedder.embedder.convolution", "stem_norm1": "embedder.embedder.normalization"},
        **{f"conv{n}": f"{_HF_BLOCK}layer.{n - 1}.convolution" for n in (1, 2, 3)},
        **{f"norm{n}": f"{_HF_BLOCK}layer.{n - 1}.normalization" for n in (1, 2, 3)},
        "shortcut_conv": f"{_HF_BLOCK}shortcut.convolution",
        "shortcut_norm": f"{_HF_BLOCK}shortcut.normalization",
        "head": "classifier.1",
    },
    preprocessing=IMAGENET_BICUBIC,
)

_KERAS_BLOCK = "conv{stage_plus_1}_block{block}_"
_KERAS_LAYERS = {
    **{f"conv{n}": f"{_KERAS_BLOCK}{n}_conv" for n in (1, 2, 3)},
    **{"stem_conv1": "conv1_conv", "shortcut_conv": f"{_KERAS_BLOCK}0_conv", "head": "predictions"},
}
KERAS_V1 = Family(
    publisher="Keras",
    variant="v1",
    signature=r"^conv\d+_block\d+_\d_conv/",
    block=r"^conv(\d+)_block(\d+)_",
    layers={
        **_KERAS_LAYERS,
        **{f"norm{n}": f"{_KERAS_BLOCK}{n}_bn" for n in (1, 2, 3)},
        **{"stem_norm1": "conv1_bn", "shortcut_norm": f"{_KERAS_BLOCK}0_bn"},
    },
    torch_layout=False,
    caffe=True,
    preprocessing=CAFFE,
)

KERAS_V2 = Family(
    publisher="Keras",
    variant="v2",
    signature=r"^conv\d+_block\d+_preact_bn/|^post_bn/",
    block=r"^conv(\d+)_block(\d+)_",
    layers={
        **_KERAS_LAYERS,
        **{"norm1": f"{_KERAS_BLOCK}preact_bn", "norm2": f"{_KERAS_BLOCK}1_bn", "norm3": f"{_KERAS_BLOCK}2_bn"},
        "final_norm": "post_bn",
    },
    torch_layout=False,
    preprocessing=PLUS_MINUS_ONE,
)

_BIT_UNIT = "block{stage}/unit{block:02}/"
BIT = Family(
    publisher="Big Transfer",
    variant="bit",
    signature=r"^block\d+/unit\d+/",
    block=r"^block(\d+)/unit(\d+)/",
    layers={
        "stem_conv1": "root_block/standardized_conv2d",
        **{f"conv{n}": f"{_BIT_UNIT}{letter}/standardized_conv2d" for n, letter in enumerate("abc", start=1)},
        **{f"norm{n}": f"{_BIT_UNIT}{letter}/group_norm" for n, letter in enumerate("abc", start=1)},
        "shortcut_conv": f"{_BIT_UNIT}a/proj/standardized_conv2d",
        "final_norm": "group_norm",
        "head": "head/conv2d",
    },
    torch_layout=False,
    preprocessing=PLUS_MINUS_ONE,
)

# The order matters: the signature of a later family may match names of an earlier one.
FAMILIES = (TIMM_D, TORCHVISION, CAFFE_RELEASE, HUGGING_FACE, KERAS_V2, KERAS_V1, BIT)
