"""Published ResNet weights: `load` turns a name or a file into Flax trees, `write` turns them back."""

from cifar_jax.pretrained.backbone import Backbone, Preprocessing
from cifar_jax.pretrained.catalogue import CATALOGUE
from cifar_jax.pretrained.loading import load, write

__all__ = ["CATALOGUE", "Backbone", "Preprocessing", "load", "write"]
