"""Where the images come from: every source ends in one plain `Dataset` of uint8 arrays."""

from cifar_jax.data.dataset import Dataset, ImageSet
from cifar_jax.data.sources import load
from cifar_jax.data.splits import split_train_validation

__all__ = ["Dataset", "ImageSet", "load", "split_train_validation"]
