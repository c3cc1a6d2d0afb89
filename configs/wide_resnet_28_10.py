"""A WideResNet-28-10 with dropout, 200 epochs.

    cifar-jax --config wide_resnet_28_10

Zagoruyko and Komodakis 2016, with the authors' settings for CIFAR: SGD with Nesterov momentum, rates that fall to a
fifth at epochs 60, 120 and 160, weight decay of all parameters, random flips and crops. A recipe for a GPU.

Published: 96.1 % on CIFAR-10, 81.2 % on CIFAR-100 (36.5 million parameters). Not measured here.

A tenth of the training images is kept for validation; the authors trained on all of them.
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "wide_resnet"
    config.model.stage_sizes = (4, 4, 4)
    config.model.width = 160
    config.model.dropout = 0.3
    config.augment.flip = "random"
    config.augment.crop_padding = 4
    config.optimizer.weight_decay = 5e-4
    config.optimizer.uniform_decay = True
    config.schedule.name = "step"
    config.schedule.decay_epochs = (60.0, 120.0, 160.0)
    config.schedule.decay_factor = 0.2
    config.train.epochs = 200
    config.train.batch_size = 128
    config.train.label_smoothing = 0.0
    config.mesh.sized_for = "accelerator"
    return config
