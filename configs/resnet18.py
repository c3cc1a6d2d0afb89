"""A ResNet-18 for small images, 200 epochs.

    cifar-jax --config resnet18

The usual network for CIFAR: a 3x3 stem of stride 1 without pooling, then the basic blocks of He et al. 2015. SGD with
Nesterov momentum, cosine schedule, random flips and crops. A recipe for a GPU. Not measured here.

ResNet-34:  --config.model.stage_sizes=(3,4,6,3)
ResNet-101: --config.model.stage_sizes=(3,4,23,3) --config.model.block=bottleneck
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "resnet"
    config.model.stage_sizes = (2, 2, 2, 2)
    config.model.block = "basic"
    config.model.stem = "small"
    config.augment.flip = "random"
    config.augment.crop_padding = 4
    config.train.epochs = 200
    config.train.batch_size = 128
    config.train.label_smoothing = 0.0
    config.mesh.sized_for = "accelerator"
    return config
