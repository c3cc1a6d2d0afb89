"""A network's weights with everything needed to use them: `load` returns it, `write` takes it."""

import dataclasses
from typing import Literal

from cifar_jax.preprocessing.preprocess import Preprocessing

METADATA_KEY = "cifar_jax"  # the entry of a weight file under which `write` keeps what the format has no field for


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Weights of a ResNet as nested dicts of float32 NumPy arrays, named as in `models.resnet.ResNet`.

    Attributes:
        variant: key of `models.resnet.VARIANTS`.
        stage_sizes: blocks in each stage.
        width: channels of the stem.
        block: 'bottleneck' or 'basic'.
        params: with 'head' if the source has a classifier.
        batch_stats: running mean and variance of every BatchNorm; empty for GroupNorm.
        preprocessing: of the images that the weights expect.
        source: the name in the catalog, or the path.
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
        """Outputs of the head; None without a head."""
        return len(self.params["head"]["bias"]) if "head" in self.params else None

    @property
    def architecture(self) -> dict:
        return {name: getattr(self, name) for name in ("variant", "stage_sizes", "width", "block")}

    @property
    def description(self) -> dict:
        """Everything but the weights, as JSON can hold it."""
        preprocessing = dataclasses.asdict(self.preprocessing)
        return {"source": self.source, "sha256": self.sha256, **self.architecture, "preprocessing": preprocessing}

    @classmethod
    def from_description(cls, description: dict) -> "Backbone":
        """A backbone without its weights: `params` and `batch_stats` are empty."""
        preprocessing = Preprocessing.from_json(description["preprocessing"])
        stage_sizes = tuple(description["stage_sizes"])
        fields = description | {"stage_sizes": stage_sizes, "preprocessing": preprocessing}
        return cls(**fields, params={}, batch_stats={})
