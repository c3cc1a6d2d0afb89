"""Pretrains a ResNet-50 backbone from scratch.

    cifar-jax --config resnet50_pretrain --config.data.name=folder --config.data.dir=IMAGES
    cifar-jax --mode export --workdir runs/resnet50_pretrain --output backbone.safetensors
    cifar-jax --config resnet50_frozen --config.model.pretrained=backbone.safetensors

A smaller one, for two CPU cores: --config.model.stage_sizes=(1,1,1,1) --config.model.width=16
                                  --config.model.image_size=32
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "resnet"
    config.model.image_size = 64
    config.augment.flip = "random"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = 0.35
    config.optimizer.learning_rate = 0.2
    config.optimizer.weight_decay = 5e-5
    config.schedule.warmup_percent = 5.0
    config.train.epochs = 30
    config.train.batch_size = 256
    config.evaluation.batch_size = 256
    config.mesh.cpu_devices = 1  # with two devices on two cores, training takes 1.25 times as long
    return config
