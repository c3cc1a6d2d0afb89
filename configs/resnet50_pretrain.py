"""Makes a backbone from an image folder: a ResNet from random weights, to be exported and then transferred.

    python main.py --config configs/resnet50_pretrain.py --config.data.name=folder --config.data.dir=IMAGES
    python main.py --mode export --workdir runs/resnet50_pretrain --output backbone.safetensors
    python main.py --config configs/resnet50_frozen.py --config.model.pretrained=backbone.safetensors

A smaller one, for two CPU cores:  --config.model.stage_sizes=(1,1,1,1) --config.model.width=16
                                   --config.model.image_size=32
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
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
    config.mesh.cpu_devices = 1  # on two cores, training takes 1.25 times as long on two devices
    return config
