"""Model 2: frozen ResNet-50, images at 224 pixels.

    cifar-jax --config resnet50_resized --config.model.pretrained=torchvision/resnet50_v1

A random crop of at least a quarter of each image, randomly mirrored, is resized to 224 pixels inside the
compiled step (bicubic, antialiased). Only the head is trained: the parameters and running statistics of the
backbone stay bit-identical.

Expected: not measured here with ImageNet weights.
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "resnet"
    config.model.image_size = 224
    config.augment.flip = "random"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = 0.25
    config.optimizer.rules = (("^head/", 1.0), (".*", 0.0))
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.train.label_smoothing = 0.0
    config.train.epochs = 10
    config.train.batch_size = 256
    config.evaluation.batch_size = 128
    return config
