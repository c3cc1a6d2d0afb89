"""The published ResNet-50 weights that `load` knows by name: where they are, what they score, what they are fed.

Hashes are those that the publisher states: Keras an md5, torchvision the first 8 digits of the sha256 (in the file's
name). Hugging Face and Google's buckets state none that can be checked before a download; what a download's sha256 was
is kept beside it in the cache, checked at every later use, and recorded in `Backbone.sha256`.

Figures that no source states are None. Top-1 is in percent on ImageNet's validation images, at `image_size`.
"""

import dataclasses

from cifar_jax.pretrained.backbone import Preprocessing
from cifar_jax.pretrained.families import CAFFE, IMAGENET, PLUS_MINUS_ONE


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        url: of the file.
        hash: 'md5:' or 'sha256:' and the first digits or all of them; '' where none is published.
        license: as the publisher names it; None where the source does not say.
        imagenet_top1: percent; None where the source does not say.
        variant: key of `models.resnet.VARIANTS`.
        preprocessing: of the images that the weights are meant for.
    """

    url: str
    hash: str
    license: str | None
    imagenet_top1: float | None
    variant: str
    preprocessing: Preprocessing


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_TORCH = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/"
_BIT = "https://storage.googleapis.com/bit_models/"

_BICUBIC_95 = dataclasses.replace(IMAGENET, resize_method="bicubic", crop_fraction=0.95)
_BICUBIC_875 = dataclasses.replace(IMAGENET, resize_method="bicubic")


def _keras(file: str, md5: str, top1: float | None, variant: str, preprocessing: Preprocessing) -> Entry:
    return Entry(_KERAS + file, f"md5:{md5}", None, top1, variant, preprocessing)


def _timm(name: str, top1: float, *, license=None, variant="v1.5", preprocessing=_BICUBIC_95) -> Entry:
    return Entry(f"{_HUB}timm/{name}/resolve/main/model.safetensors", "", license, top1, variant, preprocessing)


def _bit(file: str, top1: float | None = None, *, image_size: int = 224) -> Entry:
    preprocessing = dataclasses.replace(PLUS_MINUS_ONE, image_size=image_size)
    return Entry(f"{_BIT}{file}.npz", "", None, top1, "bit", preprocessing)


def _robust(epsilon: str) -> Entry:
    """Trained against perturbations of L2 norm `epsilon` (Salman et al. 2020); the normalization is torchvision's."""
    top1 = {"0": 75.80, "3": 62.83}.get(epsilon)
    url = f"{_HUB}madrylab/robust-imagenet-models/resolve/main/resnet50_l2_eps{epsilon}.ckpt"
    return Entry(url, "", "MIT", top1, "v1.5", IMAGENET)


CATALOGUE: dict[str, Entry] = {
    # 74.9: keras.io. The caffe weights of He et al. 2015.
    "keras/resnet50": _keras(
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5", "2cb95161c43110f7111970584f804107", 74.9, "v1", CAFFE
    ),
    "keras/resnet50_notop": _keras(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626", 74.9, "v1", CAFFE
    ),
    "keras/resnet50v2": _keras(
        *("resnet50v2_weights_tf_dim_ordering_tf_kernels.h5", "3ef43a0b657b3be2300d5770ece849e0"),
        *(76.0, "v2", PLUS_MINUS_ONE),
    ),
    "keras/resnet50v2_notop": _keras(
        *("resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "fac2f116257151a9d068a22e544a4917"),
        *(76.0, "v2", PLUS_MINUS_ONE),
    ),
    "torchvision/resnet50_v1": Entry(
        f"{_TORCH}resnet50-0676ba61.pth", "sha256:0676ba61", None, 76.13, "v1.5", IMAGENET
    ),
    # 80.846: timm's evaluation at 224 pixels, bilinear, crop 0.965. Trained at 176 pixels.
    "torchvision/resnet50_v2": Entry(
        *(f"{_TORCH}resnet50-11ad3fa6.pth", "sha256:11ad3fa6", None, 80.846, "v1.5"),
        dataclasses.replace(IMAGENET, crop_fraction=0.965),
    ),
    "timm/resnet50.tv_in1k": _timm("resnet50.tv_in1k", 76.156, license="bsd-3-clause", preprocessing=IMAGENET),
    "timm/resnet50.a1_in1k": _timm("resnet50.a1_in1k", 80.382, license="apache-2.0"),
    "timm/resnet50.a2_in1k": _timm("resnet50.a2_in1k", 79.828),
    "timm/resnet50.a3_in1k": _timm("resnet50.a3_in1k", 78.052),
    "timm/resnet50.b1k_in1k": _timm("resnet50.b1k_in1k", 79.564),
    "timm/resnet50.c1_in1k": _timm("resnet50.c1_in1k", 79.766),
    "timm/resnet50.d_in1k": _timm("resnet50.d_in1k", 79.904),
    "timm/resnet50d.a1_in1k": _timm("resnet50d.a1_in1k", 80.730, variant="d"),
    "timm/resnet50d.ra4_e3600_r224_in1k": _timm(
        *("resnet50d.ra4_e3600_r224_in1k", 80.956),
        variant="d",
        preprocessing=dataclasses.replace(_BICUBIC_95, mean=PLUS_MINUS_ONE.mean, std=PLUS_MINUS_ONE.std),
    ),
    "microsoft/resnet-50": Entry(
        f"{_HUB}microsoft/resnet-50/resolve/main/model.safetensors", "", None, None, "v1.5", _BICUBIC_875
    ),
    "bit/BiT-S-R50x1": _bit("BiT-S-R50x1"),
    "bit/BiT-M-R50x1": _bit("BiT-M-R50x1"),  # ImageNet-21k: 21,843 classes
    "bit/BiT-S-R50x1-ILSVRC2012": _bit("BiT-S-R50x1-ILSVRC2012"),
    "bit/BiT-M-R50x1-ILSVRC2012": _bit("BiT-M-R50x1-ILSVRC2012", 80.386, image_size=448),  # timm's evaluation
    "bit/R50x1_224": _bit("distill/R50x1_224", 82.8),
    "bit/R50x1_160": _bit("distill/R50x1_160", 80.5, image_size=160),
    **{
        f"madrylab/resnet50_l2_eps{epsilon}": _robust(epsilon)
        for epsilon in ("0", "0.01", "0.03", "0.05", "0.1", "0.25", "0.5", "1", "3", "5")
    },
}
