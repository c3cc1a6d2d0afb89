"""The published weights that `load` knows by name. A new file in a known layout is one more entry of `CATALOG`.

Hashes are those of the publisher: Keras states an md5, torchvision the first 8 digits of the sha256 (in the file name).
Hugging Face and Google's buckets state none that can be checked before a download; the sha256 of such a download is
kept next to it in the cache, checked at every later use, and recorded in `Backbone.sha256`.

`docs/weights.md` lists all entries with their ImageNet accuracy.
"""

import dataclasses
from typing import Literal

from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained.families import CAFFE, IMAGENET, PLUS_MINUS_ONE


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published file.

    Attributes:
        url: of the file.
        hash: 'md5:' or 'sha256:' and some or all of the digits; '' if none is published.
        variant: key of `models.resnet.VARIANTS`.
        preprocessing: of the images that the weights expect.
        stage_sizes, width, block: see `models.resnet.ResNet`; a file with another architecture is refused.
    """

    url: str
    hash: str
    variant: str
    preprocessing: Preprocessing
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    block: Literal["bottleneck", "basic"] = "bottleneck"

    @property
    def architecture(self) -> dict:
        """As `Backbone.architecture`."""
        return {name: getattr(self, name) for name in ("variant", "stage_sizes", "width", "block")}


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_TORCH = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/"
_BIT = "https://storage.googleapis.com/bit_models/"

_BICUBIC = dataclasses.replace(IMAGENET, resize_method="bicubic")


def _timm(name: str, *, variant: str = "v1.5", preprocessing: Preprocessing = _BICUBIC) -> Entry:
    return Entry(f"{_HUB}timm/{name}/resolve/main/model.safetensors", "", variant, preprocessing)


def _bit(file: str, *, image_size: int = 224) -> Entry:
    return Entry(f"{_BIT}{file}.npz", "", "bit", dataclasses.replace(PLUS_MINUS_ONE, image_size=image_size))


def _robust(epsilon: str) -> Entry:
    """Trained against perturbations of L2 norm `epsilon` (Salman et al. 2020); the normalization is torchvision's."""
    url = f"{_HUB}madrylab/robust-imagenet-models/resolve/main/resnet50_l2_eps{epsilon}.ckpt"
    return Entry(url, "", "v1.5", IMAGENET)


CATALOG: dict[str, Entry] = {
    "keras/resnet50": Entry(
        f"{_KERAS}resnet50_weights_tf_dim_ordering_tf_kernels.h5", "md5:2cb95161c43110f7111970584f804107", "v1", CAFFE
    ),
    "keras/resnet50_notop": Entry(
        f"{_KERAS}resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        *("md5:4d473c1dd8becc155b73f8504c6f6626", "v1", CAFFE),
    ),
    "keras/resnet50v2": Entry(
        f"{_KERAS}resnet50v2_weights_tf_dim_ordering_tf_kernels.h5",
        *("md5:3ef43a0b657b3be2300d5770ece849e0", "v2", PLUS_MINUS_ONE),
    ),
    "keras/resnet50v2_notop": Entry(
        f"{_KERAS}resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        *("md5:fac2f116257151a9d068a22e544a4917", "v2", PLUS_MINUS_ONE),
    ),
    "torchvision/resnet50_v1": Entry(f"{_TORCH}resnet50-0676ba61.pth", "sha256:0676ba61", "v1.5", IMAGENET),
    "torchvision/resnet50_v2": Entry(f"{_TORCH}resnet50-11ad3fa6.pth", "sha256:11ad3fa6", "v1.5", IMAGENET),
    "timm/resnet50.tv_in1k": _timm("resnet50.tv_in1k", preprocessing=IMAGENET),
    "timm/resnet50.a1_in1k": _timm("resnet50.a1_in1k"),
    "timm/resnet50.a2_in1k": _timm("resnet50.a2_in1k"),
    "timm/resnet50.a3_in1k": _timm("resnet50.a3_in1k"),
    "timm/resnet50.b1k_in1k": _timm("resnet50.b1k_in1k"),
    "timm/resnet50.c1_in1k": _timm("resnet50.c1_in1k"),
    "timm/resnet50.d_in1k": _timm("resnet50.d_in1k"),
    "timm/resnet50d.a1_in1k": _timm("resnet50d.a1_in1k", variant="d"),
    "timm/resnet50d.ra4_e3600_r224_in1k": _timm(
        "resnet50d.ra4_e3600_r224_in1k",
        variant="d",
        preprocessing=dataclasses.replace(PLUS_MINUS_ONE, resize_method="bicubic"),
    ),
    "microsoft/resnet-50": Entry(f"{_HUB}microsoft/resnet-50/resolve/main/model.safetensors", "", "v1.5", _BICUBIC),
    "bit/BiT-S-R50x1": _bit("BiT-S-R50x1"),
    "bit/BiT-M-R50x1": _bit("BiT-M-R50x1"),  # ImageNet-21k: 21,843 classes
    "bit/BiT-S-R50x1-ILSVRC2012": _bit("BiT-S-R50x1-ILSVRC2012"),
    "bit/BiT-M-R50x1-ILSVRC2012": _bit("BiT-M-R50x1-ILSVRC2012", image_size=448),  # the size of timm's evaluation
    "bit/R50x1_224": _bit("distill/R50x1_224"),
    "bit/R50x1_160": _bit("distill/R50x1_160", image_size=160),
    **{
        f"madrylab/resnet50_l2_eps{epsilon}": _robust(epsilon)
        for epsilon in ("0", "0.01", "0.03", "0.05", "0.1", "0.25", "0.5", "1", "3", "5")
    },
}
