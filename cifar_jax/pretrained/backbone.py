"""A network's weights with everything needed to use them: `load` returns it, `write` takes it."""

import dataclasses
from typing import Literal

import jax
import numpy as np

from cifar_jax.preprocessing.preprocess import Preprocessing

DEPTHS = {  # (stage_sizes, block) -> N of 'resnetN'
    **{((2, 2, 2, 2), "basic"): 18, ((2, 2, 2, 2), "bottleneck"): 26, ((3, 4, 6, 3), "basic"): 34},
    **{((3, 4, 6, 3), "bottleneck"): 50, ((3, 4, 23, 3), "bottleneck"): 101, ((3, 8, 36, 3), "bottleneck"): 152},
    ((3, 24, 36, 3), "bottleneck"): 200,
}
METADATA_KEY = "cifar_jax"  # the entry of a weight file under which `write` keeps what the format has no field for


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Weights of a ResNet as nested dicts of float32 NumPy arrays, named as in `models.resnet.ResNet`.

    Attributes:
        variant: key of `models.resnet.VARIANTS`.
        stage_sizes: blocks in each stage.
        width: channels inside the blocks of the first stage.
        block: 'bottleneck' or 'basic'.
        params: with 'head' if the source has a classifier.
        batch_stats: running mean and variance of every BatchNorm; empty for GroupNorm.
        preprocessing: of the images that the weights expect.
        source: the name in the catalog, or the path.
        sha256: of the file that was read, hexadecimal.
        preprocessing_from: what states the preprocessing, or how it was assumed.
        states_preprocessing: whether the file itself, or its publisher, states the preprocessing.
        channels: the order that the first convolution of the file takes; `params` take RGB.
        left_aside: what the file also holds.
        stem_width: channels of the stem; 0 = width.
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
    preprocessing_from: str = ""
    states_preprocessing: bool = False
    channels: Literal["RGB", "BGR"] = "RGB"
    left_aside: str = ""
    stem_width: int = 0

    @property
    def num_classes(self) -> int | None:
        """Outputs of the head; None without a head."""
        return len(self.params["head"]["bias"]) if "head" in self.params else None

    @property
    def architecture(self) -> dict:
        return {name: getattr(self, name) for name in ("variant", "stage_sizes", "width", "stem_width", "block")}

    @property
    def name(self) -> str:
        """Of the architecture, such as 'resnet50 v1.5'."""
        depth = DEPTHS.get((self.stage_sizes, self.block)) if (self.width, self.stem_width) == (64, 0) else None
        stem = f" after a stem of {self.stem_width}" if self.stem_width else ""
        other = f"a ResNet of {self.stage_sizes} {self.block} blocks, width {self.width}{stem},"
        return f"{f'resnet{depth}' if depth else other} {self.variant}"

    @property
    def description(self) -> dict:
        """Everything but the weights, as JSON can hold it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["params"], fields["batch_stats"]
        return fields | {"preprocessing": dataclasses.asdict(self.preprocessing)}

    def summary(self, used: Preprocessing) -> str:
        """One line: what was read, what was left aside, and the preprocessing in use with its origin."""
        backbone = {name: layer for name, layer in self.params.items() if name != "head"}
        tensors = len(jax.tree.leaves((backbone, self.batch_stats)))
        aside = [f"the classifier of {self.num_classes} classes"] * ("head" in self.params) + [self.left_aside]
        aside = f"; left aside: {', '.join(filter(None, aside))}" if any(aside) else ""
        published = self.preprocessing
        is_set = (used.mean, used.std) != (published.mean, published.std)
        origin = "set by --config.model.input_mean and input_std" if is_set else self.preprocessing_from
        order = "" if self.channels == "RGB" else ", for weights that take BGR"
        return (
            f"{self.source}: {self.name}, {tensors} tensors{aside}; preprocessing: mean {_shown(used.mean)}, "
            f"std {_shown(used.std)}, {used.resize_method}{order} ({origin})"
        )

    def with_channels(self, channels: str) -> "Backbone":
        """The same file, read as one whose first convolution takes images in this order ('' leaves it as it is)."""
        if channels in ("", self.channels):
            return self
        kernel = np.ascontiguousarray(self.params["stem_conv1"]["kernel"][:, :, ::-1])
        params = self.params | {"stem_conv1": self.params["stem_conv1"] | {"kernel": kernel}}
        return dataclasses.replace(self, params=params, channels=channels)

    @classmethod
    def from_description(cls, description: dict) -> "Backbone":
        """A backbone without its weights: `params` and `batch_stats` are empty."""
        preprocessing = Preprocessing.from_json(description["preprocessing"])
        stage_sizes = tuple(description["stage_sizes"])
        fields = description | {"stage_sizes": stage_sizes, "preprocessing": preprocessing}
        return cls(**fields, params={}, batch_stats={})


def _shown(values: tuple[float, ...]) -> str:
    """At most four digits: 0.485, 0.456, 0.406."""
    return f"({', '.join(f'{value:.4g}' for value in values)})"
