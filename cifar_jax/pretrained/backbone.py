"""A network's weights with all that is needed to use them: what `load` returns and `write` takes."""

import dataclasses
from typing import Literal

ABOUT = "cifar_jax"  # under this name, files that we write keep what the format itself has no place for


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The images that a network was trained on and evaluated with: RGB of values in 0..1, then (x - mean) / std.

    Attributes:
        mean: of each channel, RGB.
        std: likewise.
        resize_method: bilinear where the source does not say.
        crop_fraction: side of the center crop over the side of the resized image; None where the source does not say.
        image_size: pixels, after the crop; 224 where the source does not say.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_method: Literal["bilinear", "bicubic"]
    crop_fraction: float | None
    image_size: int


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Weights of a ResNet as nested dicts of float32 numpy arrays, named as in `models.resnet.ResNet`.

    Attributes:
        variant: key of `models.resnet.VARIANTS`.
        stage_sizes: blocks of each stage.
        width: channels of the stem.
        block: 'bottleneck' or 'basic'.
        params: with 'head' where the source has a classifier.
        batch_stats: running mean and variance of every BatchNorm; empty for GroupNorm.
        preprocessing: of the images that the weights are meant for.
        source: the catalogue's name, or the path.
        sha256: of the file that was read, hexadecimal.
    """

    variant: str
    stage_sizes: tuple[int, ...]
    width: int
    block: Literal["bottleneck", "basic"]
    params: dict
    batch_stats: dict
    preprocessing: Preprocessing
    source: str
    sha256: str

    @property
    def num_classes(self) -> int | None:
        """Classes that the head tells apart; None without a head."""
        return len(self.params["head"]["bias"]) if "head" in self.params else None

    @property
    def architecture(self) -> dict:
        """Keyword arguments of `models.resnet.ResNet`, but that the variant stands for its settings."""
        return {name: getattr(self, name) for name in ("variant", "stage_sizes", "width", "block")}

    @property
    def description(self) -> dict:
        """All but the weights, as JSON takes it."""
        about = {"source": self.source, "sha256": self.sha256, **self.architecture}
        return about | {"stage_sizes": list(self.stage_sizes), "preprocessing": dataclasses.asdict(self.preprocessing)}

    @classmethod
    def from_description(cls, description: dict) -> "Backbone":
        """A backbone without its weights: `params` and `batch_stats` are empty."""
        fields = description["preprocessing"]
        preprocessing = Preprocessing(**fields | {name: tuple(fields[name]) for name in ("mean", "std")})
        stage_sizes = tuple(description["stage_sizes"])
        given = description | {"stage_sizes": stage_sizes, "preprocessing": preprocessing}
        return cls(**given, params={}, batch_stats={})
