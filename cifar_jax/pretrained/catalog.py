"""The published weights that `load` knows by name. A new file in a known layout is one more entry of `CATALOG`.

Keras publishes an md5, torchvision the first 8 digits of the sha256, Hugging Face and Google no checksum before the
download. `docs/weights.md` lists all entries with their ImageNet accuracy.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from cifar_jax.files.checksums import checksum
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained.families import CAFFE, IMAGENET, IMAGENET_BICUBIC, PLUS_MINUS_ONE, PLUS_MINUS_ONE_BICUBIC


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published file.

    Attributes:
        hash: 'md5:' or 'sha256:' and some or all of the digits; '' if none is published.
        variant: key of `models.resnet.VARIANTS`.
        preprocessing: of the images that the weights expect.
        stage_sizes, width, stem_width, block: see `models.resnet.ResNet`; a file with another architecture is refused.
        also: first digits of the sha256 of other files with these weights.
    """

    url: str
    hash: str
    variant: str
    preprocessing: Preprocessing
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem_width: int = 0
    block: Literal["bottleneck", "basic"] = "bottleneck"
    also: tuple[str, ...] = ()


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_TORCH = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/"
# timm's recipes, with the checksum of the .pth that it published before Hugging Face
_TIMM_RECIPES = {
    "a1": "14fe96d1",
    "a2": "a2746f79",
    "a3": "59cae1ef",
    "b1k": "532a802a",
    "c1": "5ba5e060",
    "d": "f39db8af",
}
_MADRYLAB = f"{_HUB}madrylab/robust-imagenet-models/resolve/main/resnet50_l2_eps"
_BIT = "https://storage.googleapis.com/bit_models/"


def _keras(network: str, ending: str, md5: str, variant: str, preprocessing: Preprocessing) -> Entry:
    url = f"{_KERAS}{network}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
    return Entry(url, f"md5:{md5}", variant, preprocessing)


def _torchvision(file: str, stage_sizes: tuple[int, ...], block: str = "bottleneck") -> Entry:
    """The name of a file of torchvision ends in the beginning of its checksum."""
    digits = file.rpartition("-")[2]
    return Entry(f"{_TORCH}{file}.pth", f"sha256:{digits}", "v1.5", IMAGENET, stage_sizes, block=block)


def _bit(file: str, *, image_size: int = 224) -> Entry:
    return Entry(f"{_BIT}{file}.npz", "", "bit", dataclasses.replace(PLUS_MINUS_ONE, image_size=image_size))


CATALOG: dict[str, Entry] = {
    "keras/resnet50": _keras("resnet50", "", "2cb95161c43110f7111970584f804107", "v1", CAFFE),
    "keras/resnet50_notop": _keras("resnet50", "_notop", "4d473c1dd8becc155b73f8504c6f6626", "v1", CAFFE),
    "keras/resnet50v2": _keras("resnet50v2", "", "3ef43a0b657b3be2300d5770ece849e0", "v2", PLUS_MINUS_ONE),
    "keras/resnet50v2_notop": _keras("resnet50v2", "_notop", "fac2f116257151a9d068a22e544a4917", "v2", PLUS_MINUS_ONE),
    "torchvision/resnet18_v1": _torchvision("resnet18-f37072fd", (2, 2, 2, 2), "basic"),
    "torchvision/resnet34_v1": _torchvision("resnet34-b627a593", (3, 4, 6, 3), "basic"),
    "torchvision/resnet50_v1": _torchvision("resnet50-0676ba61", (3, 4, 6, 3)),
    "torchvision/resnet50_v2": _torchvision("resnet50-11ad3fa6", (3, 4, 6, 3)),
    "torchvision/resnet101_v1": _torchvision("resnet101-63fe2227", (3, 4, 23, 3)),
    "torchvision/resnet101_v2": _torchvision("resnet101-cd907fc2", (3, 4, 23, 3)),
    **{
        name: Entry(f"{_HUB}{name}/resolve/main/model.safetensors", "", variant, preprocessing, also=tuple(also))
        for name, variant, preprocessing, *also in (
            ("timm/resnet50.tv_in1k", "v1.5", IMAGENET, "19c8e357"),
            *(
                (f"timm/resnet50.{name}_in1k", "v1.5", IMAGENET_BICUBIC, sha256)
                for name, sha256 in _TIMM_RECIPES.items()
            ),
            ("timm/resnet50d.a1_in1k", "d", IMAGENET_BICUBIC, "e20cff14"),
            ("timm/resnet50d.ra4_e3600_r224_in1k", "d", PLUS_MINUS_ONE_BICUBIC),
            ("microsoft/resnet-50", "v1.5", IMAGENET_BICUBIC),
        )
    },
    "bit/BiT-S-R50x1": _bit("BiT-S-R50x1"),
    "bit/BiT-M-R50x1": _bit("BiT-M-R50x1"),  # ImageNet-21k: 21,843 classes
    "bit/BiT-S-R50x1-ILSVRC2012": _bit("BiT-S-R50x1-ILSVRC2012"),
    "bit/BiT-M-R50x1-ILSVRC2012": _bit("BiT-M-R50x1-ILSVRC2012", image_size=448),  # the size of timm's evaluation
    "bit/R50x1_224": _bit("distill/R50x1_224"),
    "bit/R50x1_160": _bit("distill/R50x1_160", image_size=160),
    # Trained against perturbations of L2 norm epsilon (Salman et al. 2020)
    **{
        f"madrylab/resnet50_l2_eps{epsilon}": Entry(f"{_MADRYLAB}{epsilon}.ckpt", "", "v1.5", IMAGENET)
        for epsilon in ("0", "0.01", "0.03", "0.05", "0.1", "0.25", "0.5", "1", "3", "5")
    },
}


def published_as(path: Path, sha256: str) -> str | None:
    """The name in `CATALOG` of a file, by its checksum; None if it is none of them."""
    with open(path, "rb") as file:
        md5 = checksum(path, "md5") if file.read(4) == b"\x89HDF" else None  # Keras publishes md5, of HDF5 files

    def matches(entry: Entry) -> bool:
        algorithm, _, digits = entry.hash.partition(":")
        computed = md5 if algorithm == "md5" else sha256
        return bool(digits and computed and computed.startswith(digits)) or sha256.startswith(entry.also)

    return next((name for name, entry in CATALOG.items() if matches(entry)), None)
