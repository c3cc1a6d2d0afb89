"""Published ResNet weights: `load` reads a name or a file into Flax trees, `write` writes them back."""

from cifar_jax.pretrained.backbone import Backbone
from cifar_jax.pretrained.catalog import CATALOG
from cifar_jax.pretrained.loading import NAMINGS, load, read, write

__all__ = ["CATALOG", "NAMINGS", "Backbone", "load", "read", "write"]
